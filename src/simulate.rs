//! Random schedules over the real modules, with rows in memory instead of servers.
