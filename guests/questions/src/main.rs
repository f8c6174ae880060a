//! The test guest: asks the Host one question, prints the answer, and ends.
//!
//! A Guest checks what the Host promises to Guests. Each function in a topic is
//! a question. Its doc comment has the question, and its output is the answer.
//! `ask=NAME` on the command line chooses one, `ask=list` names them all. A
//! test compares the answers with the transcripts in
//! `crates/lguest/tests/questions`. So a question prints nothing that differs
//! between runs or builds.
//!
//! The Guest may be one of 2007 or a later one. Most questions are asked in
//! both, and have the same answers. Others are about calls and devices that
//! only one of them has.
//!
//! The lab has what many questions need: hypercalls with any number, short code
//! in either mode at a fixed address, and the words that the Host pushes at a
//! trap.

#![no_std]
#![no_main]
#![expect(
    clippy::cast_possible_truncation,
    reason = "usize has 32 bits here, and what is cut was small"
)]

mod lab;

mod block;
mod console;
mod dma;
mod early;
mod end;
mod extended;
mod frames;
mod high;
mod hypercalls;
mod interrupts;
mod later;
mod net;
mod own;
mod paging;
mod pci;
mod ring;
mod segments;
mod told;
mod traps;
mod user;
mod virtio;

use lg_guest::boot::Boot;
use lg_guest::command_line::CommandLine;
use lg_guest::interface::{has_pci, has_virtio};
use lg_guest::{power, println};

lg_guest::entry!(main, any, early: early);

/// A name and its function.
type Question = (&'static str, fn());

macro_rules! questions {
    ($($topic:ident: $($name:ident)+;)+) => {
        &[$($((stringify!($name), $topic::$name as fn()),)+)+]
    };
}

/// Questions before LGUEST_INIT.
const EARLY: &[Question] = questions! {
    early: crash_before_init halt_before_init ring_before_init
        number_11_before_init number_max_before_init trap_before_init
        fault_before_init ports_before_init privileged_before_init
        init_outside_memory init_at_zero
        init_at_the_end_of_memory init_with_a_ring_in_use noirq without_noirq
        init_writes;
};

/// Questions to which every Guest gets the same answer.
const BOTH: &[Question] = questions! {
    hypercalls: number_11 number_max number_256 init_twice registers_kept
        user_hypercall crash crash_without_end crash_at_the_end_of_memory
        crash_with_control_characters crash_with_empty_message gates_ignored
        gate_of_a_task gate_of_16_bits gate_of_a_call gate_not_present
        stack_of_level_0 stack_of_level_3 stack_of_three_pages stack_sizes
        stack_not_mapped directory_empty arguments_ignored;
    ring: ring_gap ring_status ring_number_11 ring_init
        ring_crash ring_halt calls_in_a_loop;
    traps: division division_overflow single_step breakpoint
        breakpoint_of_two_bytes breakpoint_denied overflow bound undefined
        undefined_lock privileged debug_registers watchpoint
        breakpoint_by_register ports ports_of_a_user ports_by_string
        software_interrupts software_interrupt_allowed
        software_interrupt_without_error software_interrupts_of_the_host
        system_call_denied system_call_without_gate gate_types
        fault_through_trap_gate unhandled unhandled_with_error unhandled_fault
        vectors_of_the_host alignment alignment_in_the_handler
        flags_in_the_handler floating_point vector_floating_point bad_segments
        iret_of_a_user iret_to_bad_code iret_to_bad_stacks iret_to_other_levels
        iret_to_vm86 stray_system_calls far_jump_of_a_user go_on;
    user: ts_of_a_user ts_without_gate ts_frame vectors_kept_over_traps
        two_programs registers_of_a_user many_system_calls
        code_written_by_another_address code_written_in_another_directory
        code_entered_in_its_middle system_call_of_the_kernel stack_overflow
        demand_paging;
    extended: extended_of_threads extended_of_a_new_program;
    segments: tls_of_a_user tls_over_traps tls_of_two_directories tls_replaced
        tls_not_present tls_behind_every_register tls_saved_and_loaded_again
        tls_on_the_stack tls_limits tls_refused tls_of_two_threads
        data_segments_of_a_user data_segments_of_the_kernel local_descriptors
        selectors_seen iret_flags iopl_of_a_user;
    own: own_segments own_segments_replaced
        own_segments_of_two_directories own_segments_over_traps
        own_segments_of_a_user own_segments_refused
        own_segments_changed_for_ever;
    high: high_page_of_a_user high_page_and_its_neighbours high_code_of_a_user
        high_entry_page high_page_step_by_step;
    paging: accessed_and_dirty accessed_and_dirty_of_a_user
        accessed_and_dirty_by_a_write dirty_again read_only_stays_clean
        kernel_faults user_faults kernel_uses_user_pages
        user_accesses_the_kernel user_accesses_an_unmapped_page user_straddles
        user_touches_the_switcher kernel_touches_the_switcher
        kernel_writes_to_the_switcher kernel_jumps_to_the_switcher
        kernel_unmaps_the_switcher last_directory_entry set_pte
        set_pte_of_a_user set_pmd flush_user flush_all flush_all_of_the_kernel
        flush_all_elsewhere set_pte_elsewhere set_pte_of_the_kernel_elsewhere
        two_directories forty_directories directory_used_again null_pointer
        page_zero pte_with_pse pte_flags_allowed
        pte_not_present pde_with_pse pde_with_global pde_with_pse_of_a_user
        pde_accessed table_in_its_own_space one_page_twice code_just_written
        linear_with_a_hole;
    interrupts: halt_until_timer halt_with_interrupts_on halt_with_one_pending
        halt_without_handler timer_through_trap_gate alarm_off alarm_of_1_ns
        alarm_of_100_ns alarm_replaced alarm_once alarm_in_time
        interrupt_while_computing interrupt_delayed interrupt_of_a_user
        interrupt_of_the_kernel interrupt_blocked time_moves many_alarms
        handler_not_interrupted;
    end: power_down power_down_with_7 power_down_with_119 power_down_with_120
        power_down_with_255 power_down_with_256 power_down_with_another_word
        output_before_the_end;
};

/// Questions to which every Guest up to Linux 3.19 gets the same answer. Later
/// ones have no NOTIFY, which is how an answer shows, or get another one.
const BEFORE_PCI: &[Question] = questions! {
    ring: ring_wrap ring_at_a_trap ring_flush_in_the_ring;
    paging: pte_with_pwt set_pte_with_pwt;
};

/// Questions of a Guest of 2007.
const OF_2007: &[Question] = questions! {
    own: own_segments_in_a_loop;
    hypercalls: number_17 init_answers crash_beyond_memory gdt_sizes
        gdt_too_large gdt_beyond_memory gdt_empty_anywhere tls_beyond_memory
        directory_beyond_memory gdt_untouched;
    ring: ring_order ring_results;
    user: vectors_kept_by_the_host;
    paging: kernel_maps_the_switcher pte_beyond_memory pte_of_the_last_page
        pde_beyond_memory;
    interrupts: halt_with_the_timer_blocked lowest_first lowest_blocked;
    dma: bind_limit bind_interrupts unbind bind_missing_memory bind_unaligned
        bind_beyond_memory bind_at_the_end send_to_unbound_key send_to_oneself
        send_unaligned send_beyond_memory send_from_the_end
        send_from_the_last_byte send_from_odd_places send_sixteen_sections
        send_until_an_empty_section send_nothing send_a_whole_page
        send_across_a_page send_more_than_a_page send_what_is_not_there
        send_with_a_bad_end send_with_a_bad_rest send_bad_list_to_unbound_key
        results;
    console: typed typed_into_sections typed_into_an_array typed_before_bound
        typed_into_missing_memory typed_across_a_page typed_into_nothing
        typed_to_the_end;
    block: disk_description bus status_kept read read_in_pieces read_the_most
        read_into_another_size read_into_nothing read_into_a_full_buffer
        read_into_missing_memory read_at_the_end read_over_the_end
        read_an_odd_size read_no_bytes read_with_another_size_of_disk write
        write_over_the_end write_another_size write_without_a_buffer
        write_from_missing_memory write_and_scribble neither_read_nor_write
        wrong_key read_only interrupt_of_a_disk two_disks many_requests;
    net: net_description alone page_shared frame no_buffer cursor too_long
        bad_sender bad_receiver taken_back bound_twice;
};

/// Questions of all later Guests.
const LATER: &[Question] = questions! {
    later: calls_of_2007 number_20 shutdown_for_good
        shutdown_with_another_text shutdown_to_restart
        shutdown_with_another_reason gdt_entry_after_the_table interrupt_pending
        interrupt_pending_and_on noirq_of_the_kit;
    virtio: random_numbers no_interrupt_wanted sectors_read sectors_written
        sectors_after_the_end sectors_of_an_odd_size sectors_flushed
        name_of_a_disk unknown_request many_chains ring_round_and_round
        printed_by_a_queue typed_into_a_queue typed_into_small_buffers;
};

/// Those of Linux 3.1 to 3.19, whose devices are on lguest's bus.
const ON_LGUESTS_BUS: &[Question] = questions! {
    later: init_answers_later printed_early printed_early_without_end
        notified_beyond_memory notified_beside_a_ring;
    virtio: described sectors_of_a_read_only_disk ring_after_a_reset
        status_of_no_meaning notified_for_nothing;
    frames: frame_by_virtio address_by_virtio;
};

/// Those of Linux 4.x, whose devices are on a PCI bus.
const ON_PCI: &[Question] = questions! {
    paging: pte_with_pwt_since_4_0;
    pci: pci_slots pci_space pci_words_written pci_parts_of_words pci_bar_moved
        pci_behind_the_registers pci_features pci_negotiation pci_status
        pci_registers_of_a_queue pci_widths pci_queue_before_ready
        pci_notified_for_nothing pci_reason pci_ring_after_a_reset pci_window
        pci_printed_early pci_registers_of_a_type pci_no_interrupt_wanted
        pci_queue_outside_memory pci_queue_above_4_gib pci_queue_in_a_device
        pci_two_queues_in_one_place;
};

/// Questions that need more than a Launcher: another Guest, or a test.
const OTHERS: &[Question] = questions! {
    net: page_shared_peer frame_peer no_buffer_peer cursor_peer too_long_peer
        bad_sender_peer bad_receiver_peer taken_back_peer bound_twice_peer;
    frames: frame_by_virtio_peer;
    told: told_of_interrupts told_of_buffers told_nothing told_of_a_send;
};

/// Answers an early question, before the kit starts.
fn early() {
    if let Some(ask) = find(EARLY, lab::command_line()) {
        ask();
    }
}

fn main(boot: &'static Boot) {
    let name = boot.arguments.value("ask").unwrap_or("list");
    if name == "list" {
        let own = match (has_pci(), has_virtio()) {
            (true, _) => [LATER, ON_PCI, &[]],
            (_, true) => [LATER, ON_LGUESTS_BUS, BEFORE_PCI],
            _ => [EARLY, OF_2007, BEFORE_PCI],
        };
        for (name, _) in own.into_iter().chain([BOTH]).flatten() {
            println!("{name}");
        }
        power::off(0);
    }
    let lists = [
        BOTH,
        BEFORE_PCI,
        OF_2007,
        LATER,
        ON_LGUESTS_BUS,
        ON_PCI,
        OTHERS,
    ];
    let mut found = lists.iter().filter_map(|list| find(list, boot.arguments));
    let Some(ask) = found.next() else {
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
