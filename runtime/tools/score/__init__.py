"""`vit-edge score`: the outputs of many images, in Parquet files.

`listing.py` and `parquet.py` say which images there are, `decode.py` makes frames of them,
`scoring.py` runs the engine on these, `columns.py` makes rows of its outputs and `folder.py` keeps
them; `run.py` does it in one process, `ray_data.py` on a Ray cluster.
"""
