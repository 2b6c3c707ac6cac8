"""``gdb``: let gdb have the machine for a while."""

import click

from ftvm.debug.gdb.server import GdbServer, parse_address
from ftvm.debug.repl.desk import Desk


@click.command("gdb")
@click.argument("address", default=":1234")
@click.pass_obj
def command(desk: Desk, address: str) -> None:
    """Wait for gdb at ADDRESS; back here when it detaches.

    ADDRESS is [HOST]:PORT, on this host only unless HOST is given.

    'target remote :1234' lets gdb attach; 'monitor COMMAND' there is a command of this prompt.

    \b
    Example:
      gdb
      gdb :4321
    """
    with GdbServer(parse_address(address)) as server:
        host, port = server.address
        desk.out.line(f"gdb can attach: target remote {host}:{port}")
        server.serve(desk)
    desk.out.line(f"gdb has gone; {desk.here()}")
