"""Media in, verdict with evidence out: frames, faces, scores, reports."""
