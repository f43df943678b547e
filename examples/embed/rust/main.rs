// A flow in Rust, through the C interface and without a crate: draws and densities, compared bit by bit with Python's.
//
//     rustc -O --edition 2021 main.rs -o flow -C link-args="$(penstock config --libs)"
//     ./flow MODEL.safetensors

use std::ffi::{c_char, c_int, CStr, CString};
use std::path::Path;
use std::process::ExitCode;
use std::{env, error, fs, ptr};

/// What penstock.h declares, as much as is used here.
mod c {
    use super::*;

    #[repr(C)]
    pub struct Flow {
        _private: [u8; 0],
    }

    extern "C" {
        pub fn penstock_load(path: *const c_char, flow: *mut *mut Flow) -> c_int;
        pub fn penstock_free(flow: *mut Flow);
        pub fn penstock_last_error() -> *const c_char;
        pub fn penstock_version() -> *const c_char;
        pub fn penstock_dim(flow: *const Flow) -> i64;
        pub fn penstock_context_dim(flow: *const Flow) -> i64;
        pub fn penstock_key_from_seed(seed: u64) -> u64;
        pub fn penstock_log_prob_f64(
            flow: *const Flow, n: i64, x: *const f64, x_stride: i64, context: *const f64, context_stride: i64,
            log_prob: *mut f64,
        ) -> c_int;
        pub fn penstock_sample_f64(
            flow: *const Flow, key: u64, first_context_row: u64, first_draw: u64, n: i64, context: *const f64,
            context_stride: i64, x: *mut f64, x_stride: i64, log_prob: *mut f64,
        ) -> c_int;
    }
}

/// A flow without context. Rows lie one behind the other.
struct Flow {
    handle: *mut c::Flow,
    dim: usize,
}

// A flow never changes, and any number of threads may call its verbs.
unsafe impl Send for Flow {}
unsafe impl Sync for Flow {}

/// The sentence of a call that failed, which the thread has until its next failure.
fn checked(status: c_int) -> Result<(), String> {
    if status == 0 {
        return Ok(());
    }
    Err(unsafe { CStr::from_ptr(c::penstock_last_error()) }.to_string_lossy().into_owned())
}

impl Flow {
    fn load(path: &str) -> Result<Flow, Box<dyn error::Error>> {
        let path = CString::new(path)?;
        let mut handle = ptr::null_mut();
        checked(unsafe { c::penstock_load(path.as_ptr(), &mut handle) })?;
        let flow = Flow { handle, dim: unsafe { c::penstock_dim(handle) } as usize };
        match unsafe { c::penstock_context_dim(flow.handle) } {
            0 => Ok(flow),
            n => Err(format!("the flow wants a context of {n} numbers").into()),
        }
    }

    fn log_prob(&self, x: &[f64]) -> Result<Vec<f64>, String> {
        if x.len() % self.dim != 0 {
            return Err(format!("{} numbers are no rows of {}", x.len(), self.dim));
        }
        let mut log_p = vec![0.0; x.len() / self.dim];
        let (n, stride) = (log_p.len() as i64, self.dim as i64);
        checked(unsafe {
            c::penstock_log_prob_f64(self.handle, n, x.as_ptr(), stride, ptr::null(), 0, log_p.as_mut_ptr())
        })?;
        Ok(log_p)
    }

    /// Draws first_draw, first_draw + 1, ... of a seed.
    fn sample(&self, seed: u64, first_draw: u64, n: usize) -> Result<Vec<f64>, String> {
        let mut x = vec![0.0; n * self.dim];
        checked(unsafe {
            let key = c::penstock_key_from_seed(seed);
            let stride = self.dim as i64;
            c::penstock_sample_f64(
                self.handle, key, 0, first_draw, n as i64, ptr::null(), 0, x.as_mut_ptr(), stride, ptr::null_mut(),
            )
        })?;
        Ok(x)
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        unsafe { c::penstock_free(self.handle) }
    }
}

fn run(model: &str) -> Result<bool, Box<dyn error::Error>> {
    let flow = Flow::load(model)?;
    let version = unsafe { CStr::from_ptr(c::penstock_version()) }.to_string_lossy();
    println!("penstock {version}, {} dimensions", flow.dim);
    let mut wanted: Vec<u64> = Vec::new();
    for word in fs::read_to_string(Path::new(model).with_extension("txt"))?.split_whitespace() {
        wanted.push(u64::from_str_radix(word, 16)?);
    }
    let x = flow.sample(7, 0, 5)?;
    let log_p = flow.log_prob(&x)?;
    let mut found: Vec<u64> = Vec::new();
    for (row, log_p) in x.chunks(flow.dim).zip(&log_p) {
        println!("{row:?} {log_p}");
        found.extend(row.iter().chain([log_p]).map(|x| x.to_bits()));
    }
    // The same draws one at a time, from another thread.
    let alone = std::thread::scope(|scope| {
        scope.spawn(|| (0..5).map(|i| flow.sample(7, i, 1)).collect::<Result<Vec<_>, _>>()).join().unwrap()
    })?;
    Ok(found == wanted && alone.concat() == x)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().collect();
    if arguments.len() != 2 {
        eprintln!("usage: flow MODEL.safetensors");
        return ExitCode::from(2);
    }
    match run(&arguments[1]) {
        Ok(true) => {
            println!("the same bits as Python's");
            ExitCode::SUCCESS
        }
        Ok(false) => {
            eprintln!("not the bits of Python");
            ExitCode::from(1)
        }
        Err(error) => {
            eprintln!("flow: {error}");
            ExitCode::from(2)
        }
    }
}
