"""The engineer's side: a run is one folder, which can be interrupted, resumed, read and handed on."""
