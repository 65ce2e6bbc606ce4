"""Does one thing with the real py-zammad-cti and says as JSON what came of it: `act.py ACT URL`, PYTHONPATH at the package.

Its log, at INFO, goes to standard error.
"""

import http.client
import json
import logging
import sys

logging.basicConfig(level=logging.INFO, stream=sys.stderr)

import classmods
from zammad_cti import CTIClient

ACT, URL = sys.argv[1:]
CALL = {"_from": "4915112345678", "to": "4930555", "direction": "in", "call_id": "c"}
OUT = {"_from": "1001", "to": "4915112345678", "direction": "out", "call_id": "o"}
LONG = CALL | {"call_id": "x" * 251}


def from_environment():
    client = CTIClient(**classmods.ENVMod.load_args(CTIClient.__init__))
    return client.new_call(**CALL)


def socket_timeout():
    """The time that a request may take, as the socket knows it when the answer is waited for."""
    waits = []
    usual = http.client.HTTPConnection.getresponse

    def getresponse(self, *args, **kwargs):
        waits.append(self.sock.gettimeout())
        return usual(self, *args, **kwargs)

    http.client.HTTPConnection.getresponse = getresponse
    CTIClient(URL).new_call(**CALL)
    return waits


ACTS = {
    "new-call": lambda: CTIClient(URL).new_call(**CALL),
    "new-call-plus": lambda: CTIClient(URL).new_call(**CALL | {"_from": "+4915112345678"}),
    "new-call-empty": lambda: CTIClient(URL).new_call(**CALL | {"_from": ""}),
    "new-call-users": lambda: CTIClient(URL).new_call(**CALL, user=["Alice", "Bob"]),
    "new-call-checked": lambda: CTIClient(URL, verify_ssl=True).new_call(**CALL),
    "answer": lambda: CTIClient(URL).answer(**CALL, answering_number="1001", user="Bob"),
    "hangup": lambda: CTIClient(URL).hangup(**CALL, cause="normalClearing"),
    "direction-inbound": lambda: CTIClient(URL).new_call(**CALL | {"direction": "inbound"}),
    "long-call-id": lambda: [CTIClient(URL).new_call(**LONG), CTIClient(URL).hangup(**LONG, cause="cancel")],
    "outbound-answer-user": lambda: [
        CTIClient(URL).new_call(**OUT, user="Alice"),
        CTIClient(URL).answer(**OUT, user="Alice"),
    ],
    "repr": lambda: repr(CTIClient(URL)),
    "environment": from_environment,
    "socket-timeout": socket_timeout,
}

try:
    said = {"returned": ACTS[ACT]()}
except Exception as why:
    said = {"raised": type(why).__name__, "message": str(why)}
print(json.dumps(said))
