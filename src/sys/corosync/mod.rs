// SPDX-License-Identifier: GPL-2.0-only
//! corosync's libraries: a group on the ring (libcpg), quorum (libquorum), and how it is counted (libvotequorum).
//!
//! They are looked for when the program starts (dlopen(3)), so that neither building nor installing needs them, and a
//! host without corosync has everything else. Sources, of corosync 3.1.7: `include/corosync/cpg.h`, `quorum.h`,
//! `votequorum.h`, `corotypes.h`; the libraries' names are those of `lib/*.verso`: libcpg 4, libquorum 5,
//! libvotequorum 8.
//!
//! Callbacks run only within a dispatch, on the thread that calls it; what they tell is copied into a queue of that thread, and
//! given when the dispatch returns. No pointer is left with the library.
//!
//! To initialize, to join and to ask wait for corosync, without a limit where it is stopped (`CS_IPC_TIMEOUT_MS` of corotypes.h):
//! only a thread that may wait calls these. To dispatch and to send never wait.

mod functions;

pub use functions::Libraries;

use functions::{
    CPG_MAX_NAME_LENGTH, CPG_MODEL_V1, CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF, CPG_TYPE_AGREED,
    CS_DISPATCH_ONE_NONBLOCKING, CS_TRACK_CHANGES, CS_TRACK_CURRENT, CpgAddress, CpgModelV1,
    CpgName, CpgRingId, Handle, QuorumCallbacks, VotequorumInfo,
};
use std::cell::RefCell;
use std::ffi::CStr;
use std::ffi::{c_int, c_uint, c_void};
use std::fmt;
use std::mem;
use std::os::fd::{BorrowedFd, RawFd};
use std::ptr;
use std::slice;

/// What corosync answers when it does not do what it was asked to: `cs_error_t` of corotypes.h.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CsError(pub c_int);

const CS_OK: c_int = 1;
const CS_ERR_TRY_AGAIN: c_int = 6;
const CS_ERR_INVALID_PARAM: c_int = 7;
const CS_ERR_QUEUE_FULL: c_int = 23;

impl CsError {
    /// The same may be done a moment later.
    #[must_use]
    pub fn passes(self) -> bool {
        matches!(self.0, CS_ERR_TRY_AGAIN | CS_ERR_QUEUE_FULL)
    }
}

impl fmt::Display for CsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            2 => "corosync is not there (CS_ERR_LIBRARY)",
            5 => "CS_ERR_TIMEOUT",
            6 => "corosync has no time now (CS_ERR_TRY_AGAIN)",
            7 => "CS_ERR_INVALID_PARAM",
            8 => "CS_ERR_NO_MEMORY",
            9 => "the connection is closed (CS_ERR_BAD_HANDLE)",
            11 => {
                "corosync does not allow it (CS_ERR_ACCESS): a file in /etc/corosync/uidgid.d must name the user"
            }
            12 => "CS_ERR_NOT_EXIST",
            14 => "CS_ERR_EXIST",
            18 => "CS_ERR_NO_RESOURCES",
            19 => "CS_ERR_NOT_SUPPORTED",
            26 => "CS_ERR_TOO_BIG",
            100 => {
                "corosync does not allow it (CS_ERR_SECURITY): a file in /etc/corosync/uidgid.d must name the user"
            }
            other => return write!(f, "corosync's error {other}"),
        };
        f.write_str(name)
    }
}

fn done(code: c_int) -> Result<(), CsError> {
    if code == CS_OK {
        Ok(())
    } else {
        Err(CsError(code))
    }
}

/// What the ring tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// A member of the group sent this.
    Message {
        /// Its node.
        node: u32,
        /// The bytes.
        bytes: Vec<u8>,
    },
    /// The members of the group, by their nodes.
    Members(Vec<u32>),
    /// The nodes of the ring, whether they are members of the group or not.
    Nodes(Vec<u32>),
    /// Whether this partition has quorum.
    Quorum(bool),
}

thread_local! {
    static TOLD: RefCell<Vec<Told>> = const { RefCell::new(Vec::new()) };
}

fn tell(told: Told) {
    TOLD.with(|all| {
        // Nothing else holds it while a library runs.
        if let Ok(mut all) = all.try_borrow_mut() {
            all.push(told);
        }
    });
}

fn take_told() -> Vec<Told> {
    TOLD.with(|all| {
        let all = all.try_borrow_mut();
        all.map(|mut all| mem::take(&mut *all)).unwrap_or_default()
    })
}

/// Nodes and members that a callback may tell of: CPG_MEMBERS_MAX of cpg.h, and more than totem has.
const MOST: usize = 1_024;

/// A list that a library lends for the time of a callback.
///
/// # Safety
/// `count` values at `list`, or null.
unsafe fn lent<'a, T>(list: *const T, count: usize) -> &'a [T] {
    if list.is_null() || count > MOST {
        return &[];
    }
    // SAFETY: as the caller says.
    unsafe { slice::from_raw_parts(list, count) }
}

unsafe extern "C" fn on_deliver(
    _: Handle,
    _: *const CpgName,
    node: u32,
    _: u32,
    bytes: *mut c_void,
    length: usize,
) {
    if bytes.is_null() {
        return;
    }
    // SAFETY: cpg_deliver_fn_t gives `length` bytes for the time of the callback.
    let bytes = unsafe { slice::from_raw_parts(bytes.cast::<u8>(), length) };
    let bytes = bytes.to_vec();
    tell(Told::Message { node, bytes });
}

unsafe extern "C" fn on_confchg(
    _: Handle,
    _: *const CpgName,
    members: *const CpgAddress,
    count: usize,
    _: *const CpgAddress,
    _: usize,
    _: *const CpgAddress,
    _: usize,
) {
    // SAFETY: cpg_confchg_fn_t gives `count` addresses for the time of the callback.
    let members = unsafe { lent(members, count) };
    tell(Told::Members(members.iter().map(|m| m.nodeid).collect()));
}

unsafe extern "C" fn on_totem(_: Handle, _: CpgRingId, count: u32, nodes: *const u32) {
    let count = usize::try_from(count).unwrap_or(usize::MAX);
    // SAFETY: cpg_totem_confchg_fn_t gives `count` numbers for the time of the callback.
    let nodes = unsafe { lent(nodes, count) };
    tell(Told::Nodes(nodes.to_vec()));
}

unsafe extern "C" fn on_quorum(_: Handle, quorate: u32, _: u64, _: u32, _: *mut u32) {
    tell(Told::Quorum(quorate != 0));
}

/// A connection to corosync, in a group.
#[derive(Debug)]
pub struct Connection {
    libraries: Libraries,
    cpg: Handle,
    quorum: Handle,
    /// This node's number.
    pub node: u32,
    fds: [RawFd; 2],
}

/// How quorum is counted, as votequorum(5) names it.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Votes {
    /// There is quorum in this partition.
    pub quorate: bool,
    /// Votes of this node.
    pub node_votes: u32,
    /// Votes that there are in all.
    pub expected_votes: u32,
    /// Votes in this partition.
    pub total_votes: u32,
    /// Votes that make quorum.
    pub quorum: u32,
    /// `two_node`.
    pub two_node: bool,
    /// `wait_for_all`.
    pub wait_for_all: bool,
    /// `last_man_standing`.
    pub last_man_standing: bool,
    /// `auto_tie_breaker`.
    pub auto_tie_breaker: bool,
    /// `allow_downscale`.
    #[serde(default)]
    pub allow_downscale: bool,
    /// A quorum device is registered.
    pub qdevice: bool,
    /// It casts its vote.
    pub qdevice_votes: bool,
}

impl Connection {
    /// Connects, and joins the group `group`, of at most 128 bytes. Waits for corosync.
    ///
    /// # Errors
    /// corosync's; there is no connection then.
    pub fn join(libraries: Libraries, group: &str) -> Result<Self, CsError> {
        let mut name = CpgName {
            length: u32::try_from(group.len()).map_err(|_| CsError(CS_ERR_INVALID_PARAM))?,
            value: [0; CPG_MAX_NAME_LENGTH],
        };
        let room = name.value.get_mut(..group.len());
        room.ok_or(CsError(CS_ERR_INVALID_PARAM))?
            .copy_from_slice(group.as_bytes());
        let _ = take_told();
        let mut connection = Self::initialize(libraries)?;
        // SAFETY: the handles are open; each function writes one number, or reads a name that lives.
        done(unsafe { (libraries.cpg_local_get)(connection.cpg, &raw mut connection.node) })?;
        let [cpg_fd, quorum_fd] = &mut connection.fds;
        // SAFETY: as above.
        done(unsafe { (libraries.cpg_fd_get)(connection.cpg, cpg_fd) })?;
        // SAFETY: as above.
        done(unsafe { (libraries.quorum_fd_get)(connection.quorum, quorum_fd) })?;
        let track = CS_TRACK_CURRENT | CS_TRACK_CHANGES;
        // SAFETY: as above.
        done(unsafe { (libraries.quorum_trackstart)(connection.quorum, track) })?;
        // SAFETY: as above.
        done(unsafe { (libraries.cpg_join)(connection.cpg, &raw const name) })?;
        Ok(connection)
    }

    fn initialize(libraries: Libraries) -> Result<Self, CsError> {
        let mut model = CpgModelV1 {
            model: CPG_MODEL_V1,
            deliver: on_deliver,
            confchg: on_confchg,
            totem: on_totem,
            flags: CPG_MODEL_V1_DELIVER_INITIAL_TOTEM_CONF,
        };
        let mut cpg = 0;
        let context = ptr::null_mut();
        // SAFETY: the model is copied (lib/cpg.c, cpg_model_initialize) and the handle written.
        done(unsafe {
            (libraries.cpg_initialize)(&raw mut cpg, CPG_MODEL_V1, &raw mut model, context)
        })?;
        let mut callbacks = QuorumCallbacks { notify: on_quorum };
        let (mut quorum, mut kind) = (0, 0);
        // SAFETY: the callbacks are copied (lib/quorum.c, quorum_initialize), the numbers written.
        let opened = done(unsafe {
            (libraries.quorum_initialize)(&raw mut quorum, &raw mut callbacks, &raw mut kind)
        });
        if let Err(error) = opened {
            // SAFETY: the handle is open, and used no more.
            let _ = unsafe { (libraries.cpg_finalize)(cpg) };
            return Err(error);
        }
        Ok(Self {
            libraries,
            cpg,
            quorum,
            node: 0,
            fds: [-1; 2],
        })
    }

    /// What is readable when there is something to dispatch: the group's, and quorum's.
    #[must_use]
    pub fn fds(&self) -> [BorrowedFd<'_>; 2] {
        self.fds.map(|fd| {
            // SAFETY: the library keeps the descriptor open until the handle is finalized, which is when this value
            // ends.
            unsafe { BorrowedFd::borrow_raw(fd) }
        })
    }

    /// What has come, at most about `most` of it. Never waits.
    ///
    /// # Errors
    /// corosync is gone: this connection is of no use any more.
    pub fn dispatch(&self, most: usize) -> Result<Vec<Told>, CsError> {
        let mut all = Vec::new();
        let of = [
            (self.libraries.quorum_dispatch, self.quorum),
            (self.libraries.cpg_dispatch, self.cpg),
        ];
        for (dispatch, handle) in of {
            while all.len() < most {
                // SAFETY: the handle is open; callbacks run on this thread and keep nothing.
                let result = done(unsafe { dispatch(handle, CS_DISPATCH_ONE_NONBLOCKING) });
                let told = take_told();
                let none = told.is_empty();
                all.extend(told);
                match result {
                    Err(error) if !error.passes() => return Err(error),
                    Ok(()) if !none => {}
                    _ => break,
                }
            }
        }
        Ok(all)
    }

    /// Sends to the group, itself included, in the one order that all see. Never waits.
    ///
    /// # Errors
    /// One that [`CsError::passes`]: the ring has no room now. Any other: this connection is of no use any more.
    pub fn send(&self, bytes: &[u8]) -> Result<(), CsError> {
        let part = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        // SAFETY: the handle is open; the bytes live, and are only read.
        done(unsafe { (self.libraries.cpg_mcast)(self.cpg, CPG_TYPE_AGREED, &raw const part, 1) })
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and used no more.
        let _ = unsafe { (self.libraries.cpg_finalize)(self.cpg) };
        // SAFETY: likewise.
        let _ = unsafe { (self.libraries.quorum_finalize)(self.quorum) };
    }
}

/// A connection to corosync's votequorum.
#[derive(Debug)]
pub struct Counter {
    libraries: Libraries,
    handle: Handle,
}

impl Counter {
    /// Connects. Waits for corosync.
    ///
    /// # Errors
    /// corosync's.
    pub fn open(libraries: Libraries) -> Result<Self, CsError> {
        let mut handle = 0;
        // SAFETY: no callbacks; the handle is written.
        done(unsafe { (libraries.votequorum_initialize)(&raw mut handle, ptr::null_mut()) })?;
        Ok(Self { libraries, handle })
    }

    /// How quorum is counted now, as that node has it. Waits for corosync.
    ///
    /// # Errors
    /// corosync's; also where its quorum is not votequorum's.
    pub fn votes(&self, node: u32) -> Result<Votes, CsError> {
        let mut info = VotequorumInfo {
            numbers: [0; 9],
            qdevice_name: [0; 255],
        };
        let get = self.libraries.votequorum_getinfo;
        // SAFETY: the handle is open; a struct votequorum_info is written.
        done(unsafe { get(self.handle, node, &raw mut info) })?;
        Ok(counted(&info))
    }
}

impl Drop for Counter {
    fn drop(&mut self) {
        // SAFETY: the handle is open, and used no more.
        let _ = unsafe { (self.libraries.votequorum_finalize)(self.handle) };
    }
}

/// How long corosync may take until it has noticed that a member is gone and the ring stands again, ms: token and
/// consensus (corosync.conf(5)), as it runs with them. Nothing is delivered meanwhile. Waits for corosync.
///
/// # Errors
/// corosync's.
pub fn regrouping_ms(libraries: Libraries) -> Result<u64, CsError> {
    let mut handle = 0;
    // SAFETY: the handle is written.
    done(unsafe { (libraries.cmap_initialize)(&raw mut handle) })?;
    let get = |key: &CStr| {
        let mut ms = 0_u32;
        // SAFETY: the handle is open, the key ends with NUL, and one number is written.
        done(unsafe { (libraries.cmap_get_uint32)(handle, key.as_ptr(), &raw mut ms) })?;
        Ok(u64::from(ms))
    };
    let both = get(c"runtime.config.totem.token")
        .and_then(|token| Ok(token + get(c"runtime.config.totem.consensus")?));
    // SAFETY: the handle is open, and used no more.
    let _ = unsafe { (libraries.cmap_finalize)(handle) };
    both
}

fn counted(info: &VotequorumInfo) -> Votes {
    let [
        _,
        _,
        node_votes,
        _,
        expected_votes,
        total_votes,
        quorum,
        flags,
        _,
    ] = info.numbers;
    // VOTEQUORUM_INFO_* of votequorum.h
    let has = |flag: c_uint| flags & flag != 0;
    Votes {
        quorate: has(2),
        node_votes,
        expected_votes,
        total_votes,
        quorum,
        two_node: has(1),
        wait_for_all: has(4),
        last_man_standing: has(8),
        auto_tie_breaker: has(16),
        allow_downscale: has(32),
        qdevice: has(64),
        qdevice_votes: has(256),
    }
}
