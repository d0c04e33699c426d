"""A TensorRT whose builder ends as `UNWELL` in the environment says, for tests of who calls it."""

from __future__ import annotations

import os
import signal
import time
from enum import IntEnum
from typing import Any

__version__ = "1.0"


class ComputeCapability:
    """It builds without a GPU."""

    SM89 = 1


class Severity(IntEnum):
    INTERNAL_ERROR = 0
    ERROR = 1
    VERBOSE = 4


class ILogger:
    INTERNAL_ERROR, ERROR, VERBOSE = Severity

    def log(self, severity: Any, message: str) -> None:
        raise NotImplementedError


class Builder:
    def __init__(self, logger: ILogger) -> None:
        logger.log(ILogger.VERBOSE, "choosing tactics for\nblocks.0.attn.qkv")
        match os.environ["UNWELL"]:
            case "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            case "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            case "exits":
                os._exit(3)
            case "hangs":
                time.sleep(600)
            case "full":
                logger.log(ILogger.ERROR, "Error Code 2: OutOfMemory (Requested size was 9 bytes.)")
            case "raises":
                raise RuntimeError("no such\x1b tactic")
