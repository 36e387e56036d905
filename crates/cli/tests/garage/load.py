# One PUT and one GET every 50 ms with a client that retries three times, until stdin ends; then one
# line of JSON: how many operations there were, how many failed for good, and the first errors.
import json, os, sys, threading, time

import boto3
from botocore.config import Config
from botocore.exceptions import ResponseStreamingError


def client():
    return boto3.client(
        "s3",
        endpoint_url=os.environ["ENDPOINT"],
        region_name="garage",
        config=Config(
            s3={"addressing_style": "path"},
            retries={"mode": "standard", "max_attempts": 4},
            connect_timeout=3,
            read_timeout=10,
        ),
    )


bucket = os.environ["BUCKET"]
done = threading.Event()
lock = threading.Lock()
total = {"operations": 0, "failed": 0, "errors": []}


def count(error=None):
    with lock:
        total["operations"] += 1
        if error is not None:
            total["failed"] += 1
            if len(total["errors"]) < 5:
                total["errors"].append(f"{time.strftime('%H:%M:%S')} {error!r}")


def read(s3, key):
    # boto3 retries requests, not bodies that break off half way: those are its caller's to ask for again.
    for left in (3, 2, 1, 0):
        try:
            return s3.get_object(Bucket=bucket, Key=key)["Body"].read()
        except ResponseStreamingError:
            if not left:
                raise


def work(name):
    turn = 0
    s3 = client()
    while not done.wait(0.05):
        turn += 1
        # A new connection now and then, so that every gateway gets its share.
        if turn % 10 == 0:
            s3 = client()
        key, body = f"{name}-{turn % 50}", os.urandom(4096)
        try:
            s3.put_object(Bucket=bucket, Key=key, Body=body)
            count()
        except Exception as error:
            count(error)
            continue
        try:
            count(None if read(s3, key) == body else "another body")
        except Exception as error:
            count(error)


threads = [threading.Thread(target=work, args=(f"w{n}",)) for n in range(2)]
for thread in threads:
    thread.start()
print("started", flush=True)
sys.stdin.read()
done.set()
for thread in threads:
    thread.join()
print(json.dumps(total), flush=True)
