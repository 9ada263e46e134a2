"""A robot in simulated time: applications, board and noise as discrete events. No ROS."""
