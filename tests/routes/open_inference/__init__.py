"""The Open Inference Protocol over the application in process."""
