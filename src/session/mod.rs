//! Stage: the truth on disk: `session.json`, its journal and the drop folders.
