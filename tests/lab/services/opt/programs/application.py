"""A web service with a table in memory, as many in-house services are."""

import flask
import pandas as pd

PRICES = pd.DataFrame(
    {
        "article": [f"article {number}" for number in range(100_000)],
        "price": [number * 7919 % 10_007 / 100 for number in range(100_000)],
    }
)
application = flask.Flask(__name__)


@application.get("/")
def prices() -> str:
    first = flask.request.args.get("first", 0, int)
    return PRICES.iloc[first : first + 100].to_json()
