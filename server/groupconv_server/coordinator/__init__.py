"""Plan, dispatch, merge: what happens to a request once it is admitted."""
