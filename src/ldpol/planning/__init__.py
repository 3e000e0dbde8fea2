"""Several behaviours in one episode: how to choose the policy of a segment, and how to roll the segments out."""
