"""Why a page gave no document, as the data card counts it."""

WEB_PROBLEMS = (
    "bad_address",
    "private_address",
    "other_host",
    "forbidden_by_robots",
    "not_found",
    "refused",
    "unreachable",
    "too_slow",
    "too_many_redirects",
    "too_large",
    "not_html",
)
