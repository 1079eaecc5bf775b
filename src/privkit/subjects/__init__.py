"""Jobs about one data subject: erasure, and replaying what a restored database has forgotten."""
