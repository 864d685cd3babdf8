"""What gunicorn serves: pandas at work."""

import numpy as np
import pandas as pd
from flask import Flask

app = Flask(__name__)
table = pd.DataFrame({"a": np.arange(300_000), "b": np.arange(300_000) % 7})


@app.route("/")
def sums() -> str:
    return str(table.groupby("b").sum().to_json())
