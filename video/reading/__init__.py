"""Media in, frames out: files by PyAV or OpenCV, sampled by time."""
