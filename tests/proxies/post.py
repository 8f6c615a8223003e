"""post.py URL FILE TIMES [HEADER...] - posts a file with requests; a status or a failure a line."""

import pathlib
import sys

import requests

url, file, times, *lines = sys.argv[1:]
body = pathlib.Path(file).read_bytes()
headers = dict(line.split(": ", 1) for line in lines)
for _ in range(int(times)):
    try:
        print(requests.post(url, data=body, headers=headers, timeout=120).status_code)
    except requests.RequestException as error:
        print(f"{type(error).__name__}: {error}"[:100])
