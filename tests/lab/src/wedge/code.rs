// SPDX-License-Identifier: GPL-2.0-only
//! The machine code that faults are made of, for each architecture.

use super::Instead;
use crate::error::{Context, Error, Result};
use crate::provision::Arch;

/// Size and alignment of a processor's stack on x86 (Xen: `STACK_SIZE` in `xen/include/asm-x86/config.h`).
pub const STACK_SIZE: u64 = 8 << 12;
/// An instruction of Arm's.
const WORD: usize = 4;
/// ret
const ARM_RETURN: u32 = 0xd65f_03c0;
/// b, whose offset in words has 26 bits.
const ARM_JUMP: u32 = 0x1400_0000;
const ARM_JUMP_BITS: u32 = 26;

/// How code tells the processor that it runs on.
#[derive(Debug, Clone, Copy)]
pub enum Which {
    /// x86: its number is this far from the last byte of its stack.
    Number(u8, i32),
    /// Arm: its per-CPU offset, which it has in a register.
    Offset(u64),
}

/// What a function does instead of its work.
pub fn instead(arch: Arch, instead: Instead) -> Vec<u8> {
    match (arch, instead) {
        (Arch::Amd64, Instead::Returns) => vec![0xc3], // ret
        (Arch::Amd64, Instead::Spins) => spin(0xfb),
        (Arch::Amd64, Instead::SpinsDeaf) => spin(0xfa),
        (Arch::Arm64, Instead::Returns) => words(&[ARM_RETURN]),
        (Arch::Arm64, Instead::Spins) => arm_spin(0xd503_42ff),
        (Arch::Arm64, Instead::SpinsDeaf) => arm_spin(0xd503_42df),
    }
}

/// Returns 1.
pub fn returns_one(arch: Arch) -> Vec<u8> {
    match arch {
        Arch::Amd64 => vec![0xb8, 1, 0, 0, 0, 0xc3], // mov $1, %eax; ret
        Arch::Arm64 => words(&[0x5280_0020, ARM_RETURN]), // mov w0, #1; ret
    }
}

/// Traps as nothing that the hypervisor knows of does.
pub fn traps(arch: Arch) -> Vec<u8> {
    match arch {
        Arch::Amd64 => vec![0x0f, 0x0b], // ud2
        Arch::Arm64 => words(&[0]),      // udf #0
    }
}

/// Makes a function's fourth argument 1.
pub fn fourth_is_one(arch: Arch) -> Vec<u8> {
    match arch {
        Arch::Amd64 => vec![0xb9, 1, 0, 0, 0], // mov $1, %ecx
        Arch::Arm64 => words(&[0x5280_0023]),  // mov w3, #1
    }
}

/// `sti` or `cli`, then: 1: mov $10000, %ecx; 2: dec %ecx; jnz 2b; pause; jmp 1b. The emulator takes turns between processors at
/// a `pause`, and leaves its fast path there: so there is one, and not too often.
fn spin(first: u8) -> Vec<u8> {
    vec![
        first, 0xb9, 0x10, 0x27, 0, 0, 0xff, 0xc9, 0x75, 0xfc, 0xf3, 0x90, 0xeb, 0xf3,
    ]
}

/// `msr daifclr, #2` or `msr daifset, #2`, then the same: 1: mov w9, #10000; 2: subs w9, w9, #1; b.ne 2b; yield; b 1b.
fn arm_spin(first: u32) -> Vec<u8> {
    words(&[
        first,
        0x5284_e209,
        0x7100_0529,
        0x54ff_ffe1,
        0xd503_203f,
        0x17ff_fffc,
    ])
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_le_bytes()).collect()
}

/// Code at `here` that does `action` on one processor and goes on to `original` on the others, and behind the action.
pub fn on_one_cpu(which: Which, action: &[u8], here: u64, original: u64) -> Result<Vec<u8>> {
    match which {
        Which::Number(cpu, displacement) => x86_on_one(cpu, displacement, action, here, original),
        Which::Offset(offset) => arm_on_one(offset, action, here, original),
    }
}

fn x86_on_one(
    cpu: u8,
    displacement: i32,
    action: &[u8],
    here: u64,
    original: u64,
) -> Result<Vec<u8>> {
    let mut code = vec![0x48, 0x89, 0xe0]; // mov %rsp, %rax
    code.extend([0x48, 0x0d]); // or $(STACK_SIZE - 1), %rax
    code.extend((STACK_SIZE as u32 - 1).to_le_bytes());
    code.extend([0x8b, 0x80]); // mov displacement(%rax), %eax
    code.extend(displacement.to_le_bytes());
    code.extend([0x83, 0xf8, cpu]); // cmp $cpu, %eax
    code.extend([
        0x75,
        u8::try_from(action.len()).context(|| "the action is too long")?,
    ]); // jne past it
    code.extend(action);
    code.push(0xe9); // jmp original
    let next = here.wrapping_add(code.len() as u64 + 4);
    let distance = i32::try_from(original.wrapping_sub(next) as i64)
        .context(|| "the original is too far away")?;
    code.extend(distance.to_le_bytes());
    Ok(code)
}

fn arm_on_one(offset: u64, action: &[u8], here: u64, original: u64) -> Result<Vec<u8>> {
    /// Words before the action: mrs, ldr, cmp, b.ne.
    const BEFORE: usize = 4;
    let action_words = action.len() / WORD;
    let jump = BEFORE + action_words;
    // The offset comes behind the jump, aligned as the function is.
    let literal = (jump + 1).next_multiple_of(2);
    if action.len() % WORD != 0 || action_words > 16 || here % 8 != 0 {
        return Err(Error::new("the action is too long, or at no place for one"));
    }
    let past = |from: usize, to: usize| ((to - from) as u32) << 5;
    let mut code = words(&[
        0xd53c_d049,                    // mrs x9, tpidr_el2
        0x5800_000a | past(1, literal), // ldr x10, literal
        0xeb0a_013f,                    // cmp x9, x10
        0x5400_0001 | past(3, jump),    // b.ne jump
    ]);
    code.extend(action);
    let distance = original.wrapping_sub(here + (jump * WORD) as u64) as i64 / WORD as i64;
    let reach = 1_i64 << (ARM_JUMP_BITS - 1);
    if !(-reach..reach).contains(&distance) {
        return Err(Error::new("the original is too far away"));
    }
    let bits = distance as u32 & ((1 << ARM_JUMP_BITS) - 1);
    code.extend((ARM_JUMP | bits).to_le_bytes()); // jump: b original
    code.resize(literal * WORD, 0);
    code.extend(offset.to_le_bytes());
    Ok(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stub_acts_on_one_cpu_and_jumps_on_for_the_others() {
        let returns = instead(Arch::Amd64, Instead::Returns);
        let code = on_one_cpu(Which::Number(1, -0x3f), &returns, 0x1000, 0x800).unwrap();
        let expected = [
            0x48, 0x89, 0xe0, 0x48, 0x0d, 0xff, 0x7f, 0, 0, 0x8b, 0x80, 0xc1, 0xff, 0xff, 0xff,
            0x83, 0xf8, 1, 0x75, 1, 0xc3, 0xe9,
        ];
        assert_eq!(&code[..expected.len()], expected);
        let jump = i32::from_le_bytes(code[expected.len()..].try_into().unwrap());
        assert_eq!(0x1000 + code.len() as i64 + i64::from(jump), 0x800);
    }

    // As aarch64-linux-gnu-as assembles it.
    #[test]
    fn so_does_the_one_for_arm() {
        let returns = instead(Arch::Arm64, Instead::Returns);
        let code = on_one_cpu(Which::Offset(0x1234), &returns, 0x1000, 0x800).unwrap();
        let expected = [
            0xd53c_d049,
            0x580000aa,
            0xeb0a_013f,
            0x5400_0041,
            0xd65f_03c0,
            0x17ff_fdfb,
            0x1234,
            0,
        ];
        assert_eq!(code, words(&expected));
    }

    #[test]
    fn an_original_out_of_reach_is_refused() {
        for which in [Which::Number(1, -0x3f), Which::Offset(0)] {
            assert!(on_one_cpu(which, &[], 0x1000, 1 << 40).is_err());
        }
    }
}
