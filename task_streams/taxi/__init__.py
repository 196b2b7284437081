"""The Taxi world: many sub-tasks in one episode on one map, seen through a small window."""
