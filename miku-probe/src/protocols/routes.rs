//! Route templates: what a path becomes before it may be a label.
