// SPDX-License-Identifier: GPL-2.0
/*
 * cr8trap: loaded in the emulated host only. It keeps KVM intercepting guests' CR8 writes.
 *
 * QEMU's software CPU (seen with 7.2 to 11.1) aborts with "assertion failed: (bql_locked())" when a guest writes CR8
 * while KVM waits for an interrupt window. UEFI firmware and Windows write CR8; Linux does not. KVM starts with CR8
 * writes intercepted and gives that up in svm_update_cr8_intercept(), so this module makes that function do nothing.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static noinline notrace void do_nothing(void)
{
	asm volatile("");
}

static int skip_function(struct kprobe *probe, struct pt_regs *regs)
{
	regs->ip = (unsigned long)do_nothing;
	return 1;
}

static struct kprobe probe = {
	.symbol_name = "svm_update_cr8_intercept",
	.pre_handler = skip_function,
};

static int __init cr8trap_init(void)
{
	return register_kprobe(&probe);
}

static void __exit cr8trap_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(cr8trap_init);
module_exit(cr8trap_exit);
MODULE_DESCRIPTION("keep CR8 writes of KVM guests intercepted");
MODULE_LICENSE("GPL");
