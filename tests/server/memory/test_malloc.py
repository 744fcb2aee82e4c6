"""Settings of the C library's malloc."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest

MEASURE = """
import resource, numpy as np
from groupconv_server.memory.malloc import give_back, keep_pages
def faults(n):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(n):
        np.ones(2**26, np.uint8)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults(2)
usual = faults(10)
assert keep_pages()
faults(2)
print(usual, faults(10), give_back())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_freed_memory_is_reused_without_page_faults():
    done = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    usual, kept, returned = done.stdout.split()
    assert int(kept) * 10 < int(usual)
    assert returned == "True"


THREADS = """
import resource, threading, numpy as np
from pathlib import Path
from groupconv_server.memory.malloc import keep_pages
assert keep_pages()
def use():
    np.ones(2**26, np.uint8)
def in_a_thread():
    thread = threading.Thread(target=use)
    thread.start()
    thread.join()
in_a_thread()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    in_a_thread()
huge = next(line for line in Path("/proc/self/smaps_rollup").read_text().splitlines() if "AnonHugePages" in line)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, huge.split()[1])
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another malloc")
def test_a_thread_gets_the_memory_that_another_one_freed_in_huge_pages():
    done = subprocess.run([sys.executable, "-c", THREADS], capture_output=True, text=True, check=True)
    faults, huge = map(int, done.stdout.split())
    assert faults < 2**26 // 4096  # each thread would have made as many for itself
    setting = Path("/sys/kernel/mm/transparent_hugepage/enabled")
    if setting.exists() and "[never]" not in setting.read_text():
        assert huge >= 2**16 // 2  # KiB; the kernel may be short of them
