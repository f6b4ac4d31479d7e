// SPDX-License-Identifier: GPL-2.0-only
//! The functions of corosync's libraries and their types, as its headers declare them.
//!
//! Sources, of corosync 3.1.7: `include/corosync/cpg.h`, `quorum.h`, `votequorum.h`, `cmap.h`, `corotypes.h`.

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::fmt;
use std::mem;

// cpg.h and quorum.h
pub(super) type Handle = u64;
pub(super) const CPG_MAX_NAME_LENGTH: usize = 128;
pub(super) const CPG_MODEL_V1: c_uint = 1;
pub(super) const CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF: c_uint = 1;
pub(super) const CPG_TYPE_AGREED: c_uint = 1;
pub(super) const CS_DISPATCH_ONE_NONBLOCKING: c_uint = 4;
pub(super) const CS_TRACK_CURRENT: c_uint = 1;
pub(super) const CS_TRACK_CHANGES: c_uint = 2;

#[repr(C)]
pub(super) struct CpgName {
    pub(super) length: u32,
    pub(super) value: [u8; CPG_MAX_NAME_LENGTH],
}

#[repr(C)]
pub(super) struct CpgAddress {
    pub(super) nodeid: u32,
    pub(super) pid: u32,
    pub(super) reason: u32,
}

#[repr(C)]
#[derive(Clone, Copy)]
pub(super) struct CpgRingId {
    pub(super) nodeid: u32,
    pub(super) seq: u64,
}

pub(super) type DeliverFn =
    unsafe extern "C" fn(Handle, *const CpgName, u32, u32, *mut c_void, usize);
pub(super) type ConfchgFn = unsafe extern "C" fn(
    Handle,
    *const CpgName,
    *const CpgAddress,
    usize,
    *const CpgAddress,
    usize,
    *const CpgAddress,
    usize,
);
pub(super) type TotemFn = unsafe extern "C" fn(Handle, CpgRingId, u32, *const u32);
pub(super) type QuorumFn = unsafe extern "C" fn(Handle, u32, u64, u32, *mut u32);

#[repr(C)]
pub(super) struct CpgModelV1 {
    pub(super) model: c_uint,
    pub(super) deliver: DeliverFn,
    pub(super) confchg: ConfchgFn,
    pub(super) totem: TotemFn,
    pub(super) flags: c_uint,
}

#[repr(C)]
pub(super) struct QuorumCallbacks {
    pub(super) notify: QuorumFn,
}

/// `struct votequorum_info` of votequorum.h.
#[repr(C)]
pub(super) struct VotequorumInfo {
    pub(super) numbers: [c_uint; 9],
    pub(super) qdevice_name: [c_char; 255],
}

pub(super) type CpgInitialize =
    unsafe extern "C" fn(*mut Handle, c_uint, *mut CpgModelV1, *mut c_void) -> c_int;
pub(super) type OfHandle = unsafe extern "C" fn(Handle) -> c_int;
pub(super) type FdGet = unsafe extern "C" fn(Handle, *mut c_int) -> c_int;
pub(super) type Dispatch = unsafe extern "C" fn(Handle, c_uint) -> c_int;
pub(super) type Join = unsafe extern "C" fn(Handle, *const CpgName) -> c_int;
pub(super) type Mcast = unsafe extern "C" fn(Handle, c_uint, *const libc::iovec, c_uint) -> c_int;
pub(super) type LocalGet = unsafe extern "C" fn(Handle, *mut c_uint) -> c_int;
pub(super) type QuorumInitialize =
    unsafe extern "C" fn(*mut Handle, *mut QuorumCallbacks, *mut u32) -> c_int;
pub(super) type TrackStart = unsafe extern "C" fn(Handle, c_uint) -> c_int;
pub(super) type VotequorumInitialize = unsafe extern "C" fn(*mut Handle, *mut c_void) -> c_int;
pub(super) type CmapInitialize = unsafe extern "C" fn(*mut Handle) -> c_int;
pub(super) type CmapGet = unsafe extern "C" fn(Handle, *const c_char, *mut u32) -> c_int;
pub(super) type GetInfo = unsafe extern "C" fn(Handle, c_uint, *mut VotequorumInfo) -> c_int;

/// The functions that are used.
#[derive(Clone, Copy)]
pub struct Libraries {
    pub(super) cpg_initialize: CpgInitialize,
    pub(super) cpg_finalize: OfHandle,
    pub(super) cpg_fd_get: FdGet,
    pub(super) cpg_dispatch: Dispatch,
    pub(super) cpg_join: Join,
    pub(super) cpg_mcast: Mcast,
    pub(super) cpg_local_get: LocalGet,
    pub(super) quorum_initialize: QuorumInitialize,
    pub(super) quorum_finalize: OfHandle,
    pub(super) quorum_fd_get: FdGet,
    pub(super) quorum_dispatch: Dispatch,
    pub(super) quorum_trackstart: TrackStart,
    pub(super) votequorum_initialize: VotequorumInitialize,
    pub(super) votequorum_finalize: OfHandle,
    pub(super) votequorum_getinfo: GetInfo,
    pub(super) cmap_initialize: CmapInitialize,
    pub(super) cmap_finalize: OfHandle,
    pub(super) cmap_get_uint32: CmapGet,
}

impl fmt::Debug for Libraries {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Libraries")
    }
}

struct Library(*mut c_void, &'static CStr);

impl Library {
    fn open(name: &'static CStr) -> Result<Self, String> {
        // SAFETY: a name that ends with NUL; the library's constructors are those of corosync's own libraries.
        let library = unsafe { libc::dlopen(name.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL) };
        if library.is_null() {
            let name = name.to_string_lossy();
            return Err(format!(
                "{name} is not here: xenwarden-pool needs corosync 3 and its libraries (Debian: apt-get install corosync)"
            ));
        }
        // Never closed: the functions are used as long as the program runs.
        Ok(Self(library, name))
    }

    fn symbol(&self, name: &CStr) -> Result<*mut c_void, String> {
        // SAFETY: the library is open; the name ends with NUL.
        let symbol = unsafe { libc::dlsym(self.0, name.as_ptr()) };
        if symbol.is_null() {
            let (library, name) = (self.1.to_string_lossy(), name.to_string_lossy());
            return Err(format!(
                "{library} has no {name}: it is of another version of corosync than 3"
            ));
        }
        Ok(symbol)
    }
}

macro_rules! function {
    ($library:expr, $name:literal, $type:ty) => {{
        let symbol = $library.symbol($name)?;
        // SAFETY: the library's header declares this function with this type.
        unsafe { mem::transmute::<*mut c_void, $type>(symbol) }
    }};
}

impl Libraries {
    /// Looks for them.
    ///
    /// # Errors
    /// Which is missing, and what to do, in one line.
    pub fn open() -> Result<Self, String> {
        let cpg = Library::open(c"libcpg.so.4")?;
        let quorum = Library::open(c"libquorum.so.5")?;
        let votes = Library::open(c"libvotequorum.so.8")?;
        let map = Library::open(c"libcmap.so.4")?;
        Ok(Self {
            cpg_initialize: function!(cpg, c"cpg_model_initialize", CpgInitialize),
            cpg_finalize: function!(cpg, c"cpg_finalize", OfHandle),
            cpg_fd_get: function!(cpg, c"cpg_fd_get", FdGet),
            cpg_dispatch: function!(cpg, c"cpg_dispatch", Dispatch),
            cpg_join: function!(cpg, c"cpg_join", Join),
            cpg_mcast: function!(cpg, c"cpg_mcast_joined", Mcast),
            cpg_local_get: function!(cpg, c"cpg_local_get", LocalGet),
            quorum_initialize: function!(quorum, c"quorum_initialize", QuorumInitialize),
            quorum_finalize: function!(quorum, c"quorum_finalize", OfHandle),
            quorum_fd_get: function!(quorum, c"quorum_fd_get", FdGet),
            quorum_dispatch: function!(quorum, c"quorum_dispatch", Dispatch),
            quorum_trackstart: function!(quorum, c"quorum_trackstart", TrackStart),
            votequorum_initialize: function!(votes, c"votequorum_initialize", VotequorumInitialize),
            votequorum_finalize: function!(votes, c"votequorum_finalize", OfHandle),
            votequorum_getinfo: function!(votes, c"votequorum_getinfo", GetInfo),
            cmap_initialize: function!(map, c"cmap_initialize", CmapInitialize),
            cmap_finalize: function!(map, c"cmap_finalize", OfHandle),
            cmap_get_uint32: function!(map, c"cmap_get_uint32", CmapGet),
        })
    }
}
