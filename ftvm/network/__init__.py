"""Several host-side legs that are one NIC: frames in, frames out, failover. Nothing here knows virtio."""
