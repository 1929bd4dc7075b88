"""Ask a running server for its health and for one digit: `check_answer.py URL DEVICE`. scripts/check_images runs it.

DEVICE is the one that /health must name. The sample is a drawn 7, and the model answers with ten scores.
"""

import io
import json
import os
import sys
import urllib.request
from pathlib import Path

import numpy as np

opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def main(url: str, device: str) -> None:
    with opener.open(f"{url}/health", timeout=10) as answer:
        health = json.load(answer)
    print(f"GET /health: {json.dumps(health)}")
    if health["device"]["name"] != device:
        sys.exit(f"/health does not name the device {device}")

    body = Path(os.environ["NDSERVE_MODELS"], "digits", "samples", "digit_7.npy").read_bytes()
    post = urllib.request.Request(f"{url}/process_np_array?model=digits", body, {"Content-Type": "application/x-npy"})
    with opener.open(post, timeout=30) as answer:
        status, task = answer.status, json.load(answer)
    print(f"POST /process_np_array?model=digits: {status} {json.dumps(task)}")
    if status != 202:
        sys.exit("the answer is not 202")

    for _ in range(6):  # the first run of a model may take longer than one wait
        with opener.open(f"{url}/result/{task['task_id']}?wait=10", timeout=30) as answer:
            status, body = answer.status, answer.read()
        if status != 202:
            break
    if status != 200:
        sys.exit(f"GET /result: {status} after a minute")
    scores = np.load(io.BytesIO(body), allow_pickle=False)
    print(f"GET /result: {status}, {scores.dtype}{list(scores.shape)}, argmax {scores.argmax()}")
    if scores.shape != (10,) or scores.argmax() != 7:
        sys.exit(f"the digit is a 7, and the scores are {scores}")


if __name__ == "__main__":
    main(*sys.argv[1:])
