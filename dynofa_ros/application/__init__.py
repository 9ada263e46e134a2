"""The application layer: what runs for one application, without ROS."""
