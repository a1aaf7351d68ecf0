"""The system calls that code in the sandbox may not make, as a seccomp filter: classic BPF, a list of instructions.

Namespaces and lost privileges already keep the code away from everything else. The filter closes what they leave open:
new processes (memory is limited for each process, so there must be one only), memory that belongs to no process (System
V segments, memfds, queues), sockets that no namespace holds (vsock, Bluetooth), and parts of the kernel in which faults
are found again and again.
"""

import errno
import platform
import struct

from ..errors import DependencyError

# Machine -> (its number in the filter's data, system call -> number). A call that a machine does not have is left out.
_X86_64 = {
    "socket": 41, "clone": 56, "clone3": 435,
    "fork": 57, "vfork": 58, "execve": 59, "execveat": 322,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "pidfd_getfd": 438,
    "shmget": 29, "msgget": 68, "semget": 64, "mq_open": 240, "memfd_create": 319, "memfd_secret": 447,
    "unshare": 272, "setns": 308, "mount": 165, "open_by_handle_at": 304, "fsopen": 430, "open_tree": 428,
    "add_key": 248, "request_key": 249, "keyctl": 250, "bpf": 321, "perf_event_open": 298, "userfaultfd": 323,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
}  # fmt: skip
_AARCH64 = {
    "socket": 198, "clone": 220, "clone3": 435,
    "execve": 221, "execveat": 281,
    "ptrace": 117, "process_vm_readv": 270, "process_vm_writev": 271, "pidfd_getfd": 438,
    "shmget": 194, "msgget": 186, "semget": 190, "mq_open": 180, "memfd_create": 279, "memfd_secret": 447,
    "unshare": 97, "setns": 268, "mount": 40, "open_by_handle_at": 265, "fsopen": 430, "open_tree": 428,
    "add_key": 217, "request_key": 218, "keyctl": 219, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282,
    "io_uring_setup": 425, "io_uring_enter": 426, "io_uring_register": 427,
}  # fmt: skip
MACHINES = {"x86_64": (0xC000003E, _X86_64), "aarch64": (0xC00000B7, _AARCH64)}

_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_NUMBER, _ARCH, _ARGUMENT = 0, 4, 16  # offsets of what is loaded: the call, the machine, the low half of argument 0
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_CLONE_THREAD, _AF_UNIX = 0x00010000, 1
_X32 = 0x40000000  # calls of another, hardly used interface have numbers from here on


def seccomp_filter(machine: str | None = None) -> bytes:
    """The filter's instructions, 8 bytes each.

    machine: as `platform.machine` names it; by default this one.

    Raises `DependencyError` for a machine whose system calls are not listed here.
    """
    machine = machine or platform.machine()
    if machine not in MACHINES:
        raise DependencyError(f"code cannot be isolated on {machine}; use a machine of {' or '.join(MACHINES)}")
    arch, calls = MACHINES[machine]
    # An instruction: code, how many to skip if true, how many if false, its constant.
    program = [(_LOAD, 0, 0, _ARCH), (_EQUAL, 1, 0, arch), (_RETURN, 0, 0, _KILL), (_LOAD, 0, 0, _NUMBER)]
    if machine == "x86_64":
        program += [(_AT_LEAST, 0, 1, _X32), (_RETURN, 0, 0, _ERROR | errno.EPERM)]
    for name, number in calls.items():
        if name == "socket":
            program += _on_argument(number, (_EQUAL, 1, 0, _AF_UNIX))
        elif name == "clone":  # threads are made by it, too
            program += _on_argument(number, (_ANY_BIT, 1, 0, _CLONE_THREAD))
        else:
            # clone3 keeps its flags in memory, which a filter cannot read: told that it is unknown, libc takes clone.
            code = errno.ENOSYS if name == "clone3" else errno.EPERM
            program += [(_EQUAL, 0, 1, number), (_RETURN, 0, 0, _ERROR | code)]
    program.append((_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _on_argument(number: int, allowed: tuple[int, int, int, int]) -> list[tuple[int, int, int, int]]:
    """Instructions that allow a system call only if `allowed` is true of its first argument."""
    return [
        (_EQUAL, 0, 4, number),
        (_LOAD, 0, 0, _ARGUMENT),
        allowed,
        (_RETURN, 0, 0, _ERROR | errno.EPERM),
        (_RETURN, 0, 0, _ALLOW),
    ]
