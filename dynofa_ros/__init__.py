"""Dynamic neural networks and their runtime management for ROS 2 robots."""

from pkgutil import extend_path

# The generated messages live in the installed half of this package. When the source tree shadows
# it (a script or `python -m pytest` started in the repository root) both halves must be found.
__path__ = extend_path(__path__, __name__)
__version__ = "0.1.0"
