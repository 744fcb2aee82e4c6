"""Different processors have different names, so that measurements of one are not used on another."""

from itertools import combinations

from groupconv_worker.cpu import processor

X86 = "processor\t: {0}\ncpu family\t: 25\nmodel\t\t: {1}\nmodel name\t: AMD EPYC\nflags\t\t: fpu\n\n"
ARM = (
    "processor\t: {0}\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\n"
    "CPU variant\t: 0x{2}\nCPU part\t: 0x{1:x}\nCPU revision\t: 1\n\n"
)
MACHINES = {
    "a virtual machine on Zen 3": X86.format(0, 1) + X86.format(1, 1),
    "a virtual machine on Zen 4": X86.format(0, 17) + X86.format(1, 17),
    "Neoverse N1": ARM.format(0, 0xD0C, 3) + ARM.format(1, 0xD0C, 3),
    "Neoverse V1": ARM.format(0, 0xD40, 1) + ARM.format(1, 0xD40, 1),
    "a later Neoverse V1": ARM.format(0, 0xD40, 2),
    "small and large cores": ARM.format(0, 0xD05, 1) + ARM.format(1, 0xD0B, 1),
    "small cores alone": ARM.format(0, 0xD05, 1) * 2,
    "a Raspberry Pi": ARM.format(0, 0xD08, 0) + "Hardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n",
}


def test_every_processor_has_a_name_of_its_own():
    names = {machine: processor.named(text) for machine, text in MACHINES.items()}
    assert all(names.values())
    for one, other in combinations(names, 2):
        assert names[one] != names[other], (one, other)


def test_the_number_of_cores_makes_no_other_processor():
    assert processor.named(ARM.format(0, 0xD0C, 3)) == processor.named(MACHINES["Neoverse N1"])


def test_cores_of_several_kinds_are_all_named():
    assert processor.named(MACHINES["small and large cores"]) == (
        "ARM (implementer 0x41, part 0xd05, variant 0x1, revision 1)"
        " + ARM (implementer 0x41, part 0xd0b, variant 0x1, revision 1)"
    )


def test_a_name_without_numbers_is_a_name():
    assert processor.named("model name : Imagined 3000\n") == "Imagined 3000"
    assert processor.named("") is None
