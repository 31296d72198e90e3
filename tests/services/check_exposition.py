"""Fetches metrics in every form that is offered and reads them with Prometheus's own Python parsers.

Prints one JSON object: content types, and the samples of the plain text as Prometheus's parser sees them.
Exits with a trace when anything does not parse or the forms do not name the same series.
"""

import gzip
import json
import sys
import urllib.request

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"


def fetch(url, **headers):
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(urllib.request.Request(url, headers=headers), timeout=10) as response:
        return response.headers, response.read()


def series(families):
    found = set()
    for family in families:
        for sample in family.samples:
            # OpenMetrics adds when a counter began.
            if not sample.name.endswith("_created"):
                found.add((sample.name, tuple(sorted(sample.labels.items()))))
    return found


def main():
    url = sys.argv[1]
    text_headers, text = fetch(url)
    open_headers, opened = fetch(url, Accept=OPENMETRICS)
    zipped_headers, zipped = fetch(url, **{"Accept-Encoding": "gzip"})
    assert zipped_headers.get("Content-Encoding") == "gzip", zipped_headers
    assert text_headers.get("Content-Encoding") is None, text_headers
    families = list(parse_text(text.decode()))
    plain = series(families)
    # The probe's own series may be joined by others between one scrape and the next, the watched ones may not.
    watched = {entry for entry in plain if entry[0].startswith("http_")}
    assert watched, "nothing about requests"
    assert opened.endswith(b"# EOF\n"), opened[-20:]
    for other in (series(parse_openmetrics(opened.decode())), series(parse_text(gzip.decompress(zipped).decode()))):
        # Bucket bounds are written differently: 1 and 1.0.
        strip = lambda entries: {(n, tuple((k, v if k != "le" else float(v)) for k, v in ls)) for n, ls in entries}
        missing = strip(watched) ^ {e for e in strip(other) if e[0].startswith("http_")}
        assert not missing, missing
    for family in families:
        assert family.documentation, f"{family.name} has no help text"
        assert family.type != "unknown", f"{family.name} has no type"
    samples = [[s.name, s.labels, s.value] for f in families for s in f.samples if s.name.startswith("http_")]
    types = {"text": text_headers["Content-Type"], "openmetrics": open_headers["Content-Type"]}
    print(json.dumps({"types": types, "samples": samples}))


if __name__ == "__main__":
    main()
