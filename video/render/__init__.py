"""Results for people: annotated pictures and videos, the offline HTML page."""
