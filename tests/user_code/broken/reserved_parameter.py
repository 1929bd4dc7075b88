"""A process whose parameter is a name that the server keeps for itself."""

from ndserve import process


@process("patient", batched=True)
def patient(xp, x, *, wait=1.0):
    return x + wait
