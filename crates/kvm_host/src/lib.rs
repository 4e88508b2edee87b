//! The only owner of KVM: virtual machine, vCPUs, memory slots, interrupts, CPUID
