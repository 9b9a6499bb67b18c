"""Tries to have the data key of a sealed bundle unwrapped outside of an enclave.

    decrypt.py HEADER

HEADER is what `cloister inspect --json` printed of the bundle. The KMS is that of
AWS_ENDPOINT_URL_KMS, the credentials are AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Prints the
error that KMS gives. Status 0: AccessDeniedException. Status 1: any other answer, above all a
data key. Status 2: there is no answer, or HEADER is none. Standard library only.
"""

import datetime
import hashlib
import hmac
import json
import os
import sys
import urllib.error
import urllib.request

TARGET = "TrentService.Decrypt"
MEDIA = "application/x-amz-json-1.1"


def sign(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def signed(endpoint, region, body, now):
    """The headers of a request (AWS Signature Version 4)."""
    host = endpoint.split("://", 1)[1]
    stamp, day = now.strftime("%Y%m%dT%H%M%SZ"), now.strftime("%Y%m%d")
    headers = {"content-type": MEDIA, "host": host, "x-amz-date": stamp, "x-amz-target": TARGET}
    names = ";".join(sorted(headers))
    lines = "".join("%s:%s\n" % (name, headers[name]) for name in sorted(headers))
    canonical = "\n".join(["POST", "/", "", lines, names, hashlib.sha256(body).hexdigest()])
    scope = "%s/%s/kms/aws4_request" % (day, region)
    text = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    key = ("AWS4" + os.environ["AWS_SECRET_ACCESS_KEY"]).encode()
    for part in (day, region, "kms", "aws4_request"):
        key = sign(key, part)
    headers["authorization"] = "AWS4-HMAC-SHA256 Credential=%s/%s, SignedHeaders=%s, Signature=%s" % (
        os.environ["AWS_ACCESS_KEY_ID"], scope, names, sign(key, text).hex())
    return headers


def main(args):
    try:
        with open(args[0], encoding="utf-8") as file:
            header = json.load(file)["header"]
        body = json.dumps({
            "KeyId": header["key"],
            "CiphertextBlob": header["wrapped_key"],
            "EncryptionContext": header["encryption_context"],
        }).encode()
        endpoint = os.environ["AWS_ENDPOINT_URL_KMS"].rstrip("/")
        headers = signed(endpoint, header["key"].split(":")[3], body, datetime.datetime.now(datetime.timezone.utc))
        request = urllib.request.Request(endpoint + "/", data=body, headers=headers, method="POST")
        with urllib.request.urlopen(request, timeout=30):
            print("KMS gave the data key")
        return 1
    except urllib.error.HTTPError as refused:
        kind = json.loads(refused.read(1 << 16)).get("__type", "")
        print("KMS says %s" % kind)
        return 0 if kind.endswith("AccessDeniedException") else 1
    except (OSError, ValueError, KeyError, IndexError) as problem:
        print("decrypt: %r" % problem, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
