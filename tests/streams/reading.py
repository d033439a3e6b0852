"""What all feeds from a server have to do, as functions that tests call."""

import json


def names(records):
    """Their ids."""
    return [record.id for record in records]


def drained(feed, most=100):
    """All that is there, so many at a time."""
    records = []
    while not feed.ended:
        records += feed.read(most)
    return records


def goes_on_from_each(feed, records):
    """From the position of each record, as a checkpoint gives it back, the rest is the same; and from the start all."""
    assert records
    for most in (1, 100):
        for i, record in enumerate(records):
            feed.seek(json.loads(json.dumps(record.position)))
            assert drained(feed, most) == records[i + 1 :]
    feed.seek(None)
    assert drained(feed) == records
