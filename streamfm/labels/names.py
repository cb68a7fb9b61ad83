"""Names of the tables that a round makes on its connection, and of the columns that it adds for itself."""

from streamfm.expressions import quoted

NEW = "streamfm_new"
"""Ids of the impressions that were not read before."""

COPIES = "streamfm_copies"
"""Impressions whose id is there more than once."""

CLICKS, CLICKS_BY_ID = "streamfm_clicks", "streamfm_clicks_by_id"
"""The clicks that can matter; the same, one row an id."""

MATCHED = "streamfm_matched"
"""Impressions that have clicks, by id."""

LATE = "streamfm_late"
"""Impressions of earlier rounds that teach again."""

LABELLED = "streamfm_labelled"
"""The result."""

ID, US, READ = quoted("streamfm id"), quoted("streamfm time"), quoted("streamfm read")
"""Of an impression: its id, its time in microseconds since 1970, whether it was read in an earlier round."""

WEIGHT, STATE, RANK = quoted("streamfm weight"), quoted("streamfm state"), quoted("streamfm rank")

ROW = quoted("streamfm row")
"""A table's alias: a name that no column has."""

SAMPLED_OUT, NEGATIVE, POSITIVE, AGAIN, UNSETTLED = -1, 0, 1, 2, 3
"""States of a row with clicks; NULL is a negative without any. One that is sampled out is no labelled row: only its
clicks are counted. One that teaches again was labelled before. One that is not settled waits for `Join.settle`."""
