"""What `dynofa bench` measures, each section a function that returns its part of the JSON."""
