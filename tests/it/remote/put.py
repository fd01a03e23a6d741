"""Puts a folder's files into a bucket: `put.py URL FOLDER`. Prints an address of one that is signed."""

import pathlib
import sys

import boto3
from botocore.config import Config

url, folder = sys.argv[1], pathlib.Path(sys.argv[2])
store = boto3.client("s3", endpoint_url=url, region_name="us-east-1", aws_access_key_id="any", aws_secret_access_key="any", config=Config(s3={"addressing_style": "path"}))
store.create_bucket(Bucket="reviews")
for path in sorted(folder.rglob("*")):
    if path.is_file():
        store.upload_file(str(path), "reviews", str(path.relative_to(folder)))
print(store.generate_presigned_url("get_object", Params={"Bucket": "reviews", "Key": "in/a.jsonl"}))
