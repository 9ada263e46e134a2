"""What `dynofa demo` runs: camera, processes, phases and live view."""
