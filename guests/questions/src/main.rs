//! The Guest that asks: one question, one answer, and off.
//!
//! What the Host promises is best checked by whoever it was promised to. Each
//! function below a topic is a question, its doc comment says which, and what
//! it prints is the answer. `ask=NAME` on the command line picks one,
//! `ask=list` names them all. The answers on record are in
//! `crates/lguest/tests/questions`, where a test compares; so a question
//! prints nothing that changes from run to run or from build to build.
//!
//! The lab has what many questions need: hypercalls with any number, code of a
//! few bytes in either mode, at an address that never changes, and a look at
//! what the Host pushes when it traps.

#![no_std]
#![no_main]

mod lab;

mod early;
mod hypercalls;
mod ring;
mod traps;
mod paging;

use lg_guest::boot::Boot;
use lg_guest::command_line::CommandLine;
use lg_guest::{power, println};

lg_guest::entry!(main, early: early);

/// A name and what it stands for.
type Question = (&'static str, fn());

macro_rules! questions {
    ($($topic:ident: $($name:ident)+;)+) => {
        &[$($((stringify!($name), $topic::$name as fn()),)+)+]
    };
}

/// What is asked before the Host has heard of us.
const EARLY: &[Question] = questions! {
    early: crash_before_init halt_before_init ring_before_init
        number_11_before_init number_max_before_init trap_before_init
        fault_before_init ports_before_init init_outside_memory init_at_zero
        init_at_the_end_of_memory init_with_a_ring_in_use;
};

/// What is asked by a kernel that is up.
const LATE: &[Question] = questions! {
    hypercalls: number_11 number_17 number_max number_256 init_twice
        init_answers registers_kept user_hypercall crash crash_without_end
        crash_at_the_end_of_memory crash_beyond_memory
        crash_with_control_characters crash_with_nothing_to_say gdt_sizes
        gdt_too_large gdt_beyond_memory gdt_nowhere tls_beyond_memory
        gates_ignored gate_of_a_task gate_of_16_bits gate_of_a_call
        gate_not_present stack_of_level_0 stack_of_level_3
        stack_of_three_pages stack_sizes stack_nowhere directory_beyond_memory
        directory_empty arguments_ignored gdt_untouched;
    ring: ring_order ring_wrap ring_gap ring_status ring_at_a_trap
        ring_results ring_number_11 ring_init ring_crash ring_halt
        ring_flush_in_the_ring;
    traps: division division_overflow single_step breakpoint
        breakpoint_of_two_bytes breakpoint_denied overflow bound undefined
        undefined_lock privileged debug_registers ports ports_of_a_user
        ports_by_string software_interrupts software_interrupt_allowed
        software_interrupt_without_error system_call_denied
        system_call_without_gate gate_types fault_through_trap_gate unhandled
        unhandled_with_error unhandled_fault vectors_of_the_host alignment
        alignment_in_the_handler flags_in_the_handler floating_point
        vector_floating_point bad_segments iret_of_a_user far_jump_of_a_user
        go_on;
    paging: accessed_and_dirty accessed_and_dirty_of_a_user
        accessed_and_dirty_by_a_write dirty_again read_only_stays_clean
        kernel_faults user_faults kernel_uses_user_pages
        user_reaches_for_the_kernel user_reaches_for_nothing user_straddles
        user_touches_the_switcher kernel_touches_the_switcher
        kernel_writes_to_the_switcher kernel_jumps_to_the_switcher
        kernel_maps_the_switcher kernel_forgets_the_switcher
        last_directory_entry set_pte set_pte_of_a_user set_pmd flush_user
        flush_all flush_all_of_the_kernel flush_all_elsewhere
        set_pte_elsewhere set_pte_of_the_kernel_elsewhere two_directories
        forty_directories directory_used_again page_zero pte_with_pse
        pte_with_pwt set_pte_with_pwt pte_flags_allowed pte_beyond_memory
        pte_of_the_last_page pte_not_present pde_with_pse pde_beyond_memory
        pde_with_global pde_with_pse_of_a_user pde_accessed
        table_in_its_own_space one_page_twice code_just_written
        linear_with_a_hole;
};

/// Before everything else: is it one of the early ones?
fn early() {
    if let Some(ask) = find(EARLY, lab::command_line()) {
        ask();
    }
}

fn main(boot: &'static Boot) {
    let name = boot.arguments.value("ask").unwrap_or("list");
    if name == "list" {
        for (name, _) in EARLY.iter().chain(LATE) {
            println!("{name}");
        }
        power::off(0);
    }
    let Some(ask) = find(LATE, boot.arguments) else {
        panic!("no such question, or an early one that was answered");
    };
    lab::open();
    ask();
    power::off(0);
}

fn find(questions: &[Question], line: CommandLine<'_>) -> Option<fn()> {
    let wanted = line.value("ask")?;
    let found = questions.iter().find(|(name, _)| *name == wanted)?;
    Some(found.1)
}
