"""`stapo view`: runs in the browser, while they go on and afterwards.

The server reads run folders and writes nothing. `catalog` finds the runs, `pages` says what a page shows of one,
`wire` makes texts safe to show, `app` answers requests. The pages are built from `viewer/` at the root of the
repository into `static/`.
"""
