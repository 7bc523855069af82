"""``python -m gateway.demo --port 9000``: run the demo upstream until interrupted."""

import argparse
import asyncio
import sys

from .server import start


async def serve(host: str, port: int) -> None:
    """Serve until cancelled; says where on standard output."""
    upstream = await start(host, port)
    sys.stdout.write(f"demo upstream: {upstream.openai_url} and {upstream.anthropic_url}\n")
    sys.stdout.flush()
    try:
        await asyncio.Event().wait()
    finally:
        await upstream.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m gateway.demo", description=__doc__)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=9000)
    arguments = parser.parse_args()
    try:
        asyncio.run(serve(arguments.host, arguments.port))
    except KeyboardInterrupt:
        return


if __name__ == "__main__":
    main()
