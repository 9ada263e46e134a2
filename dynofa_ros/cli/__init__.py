"""The `dynofa` command: one module per subcommand."""
