//! What the forward pass asks of a device, as plain data: no GPU type occurs here, so that the same recording runs on an
//! adapter and on the host.

use porism_shaders::{Constants, Features, Interface, KernelId};

/// A buffer of an executor, by number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BufferId(pub u32);

/// A range of a buffer in bytes. Offsets of bound views are multiples of [`View::ALIGNMENT`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct View {
    /// The buffer.
    pub buffer: BufferId,
    /// First byte.
    pub offset: u64,
    /// Number of bytes.
    pub bytes: u64,
}

impl View {
    /// The strictest storage offset alignment among adapters (SwiftShader, Metal, D3D12).
    pub const ALIGNMENT: u64 = 256;

    /// The part of `bytes` bytes that starts `offset` bytes into this view.
    pub fn slice(self, offset: u64, bytes: u64) -> View {
        assert!(
            offset + bytes <= self.bytes,
            "bytes {offset}..{} of a view of {}",
            offset + bytes,
            self.bytes
        );
        View { buffer: self.buffer, offset: self.offset + offset, bytes }
    }
}

/// Workgroup counts of a dispatch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Groups {
    /// Known when recording.
    Direct([u32; 3]),
    /// Three u32 written by an earlier dispatch.
    Indirect(View),
}

/// Where in the model a dispatch belongs; read by profilers and error messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Label {
    /// What it computes, e.g. `o_proj`.
    pub what: &'static str,
    /// In which layer.
    pub layer: Option<u32>,
}

impl std::fmt::Display for Label {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.layer {
            Some(layer) => write!(out, "layer {layer} / {}", self.what),
            None => out.write_str(self.what),
        }
    }
}

/// One run of a kernel.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch {
    /// Which kernel.
    pub kernel: KernelId,
    /// The optional features that it is linked with.
    pub features: Features,
    /// Its override constants; each combination is one pipeline.
    pub constants: Constants,
    /// Its `Params`, zero-padded.
    pub params: [u8; Dispatch::MAX_PARAMS],
    bindings: [View; Dispatch::MAX_BINDINGS],
    binding_count: u8,
    /// Workgroup counts.
    pub groups: Groups,
    /// Where it belongs.
    pub label: Label,
}

impl Dispatch {
    /// Bytes of `var<immediate>` that every back end offers.
    pub const MAX_PARAMS: usize = 128;
    /// Storage buffers per stage that every implementation of WebGPU offers; the shaders' build refuses a kernel with more.
    pub const MAX_BINDINGS: usize = 8;

    /// A dispatch of the kernel whose `Params` these are.
    pub fn new<P: Interface>(
        features: Features,
        params: &P,
        overrides: P::Overrides,
        bound: P::Bindings<View>,
        groups: Groups,
        label: Label,
    ) -> Self {
        let program = (P::KERNEL, features, P::constants(overrides));
        let mut dispatch = Self::from_bytes(program, bytemuck::bytes_of(params), groups, label);
        bound.into_iter().for_each(|view| dispatch.bind(view));
        dispatch
    }

    /// One of a kernel that is known at run time only, from the bytes of its `Params`; to be bound with [`Self::bind`].
    pub fn from_bytes(
        (kernel, features, constants): (KernelId, Features, Constants),
        params: &[u8],
        groups: Groups,
        label: Label,
    ) -> Self {
        let known = kernel.kernel();
        assert!(
            params.len() == known.params_bytes as usize,
            "{label}: Params of {} bytes, `{}` has {}",
            params.len(),
            known.name,
            known.params_bytes
        );
        let mut bytes = [0; Self::MAX_PARAMS];
        bytes[..params.len()].copy_from_slice(params);
        let bindings = [View { buffer: BufferId(0), offset: 0, bytes: 0 }; Self::MAX_BINDINGS];
        Dispatch { kernel, features, constants, params: bytes, bindings, binding_count: 0, groups, label }
    }

    /// Binds the next view, in binding order.
    pub fn bind(&mut self, view: View) {
        let known = self.kernel.kernel();
        let count = usize::from(self.binding_count);
        assert!(
            count < known.bindings.len(),
            "{}: more than the {} bindings of `{}`",
            self.label,
            known.bindings.len(),
            known.name
        );
        self.bindings[count] = view;
        self.binding_count += 1;
    }

    /// The bound views in binding order.
    pub fn bindings(&self) -> &[View] {
        &self.bindings[..self.binding_count as usize]
    }
}

/// One step of a recording.
#[derive(Clone, Copy, Debug)]
#[expect(
    clippy::large_enum_variant,
    reason = "nearly all are dispatches, and a box would be an allocation for each"
)]
pub enum Command {
    /// Writes recorded bytes into a buffer, before any dispatch of the recording runs.
    Upload {
        /// Where to.
        to: View,
        /// First byte in the recording's data.
        from: usize,
    },
    /// Runs a kernel.
    Dispatch(Dispatch),
    /// Copies between two buffers.
    Copy {
        /// Source.
        from: View,
        /// Destination, of the same size.
        to: View,
    },
    /// Brings bytes back to the caller, appended in order.
    Read(View),
}

/// Commands to be run in order by one submit. Recording again after [`Recording::clear`] allocates nothing.
#[derive(Debug, Default)]
pub struct Recording {
    commands: Vec<Command>,
    data: Vec<u8>,
}

impl Recording {
    /// Forgets everything, keeps the memory.
    pub fn clear(&mut self) {
        self.commands.clear();
        self.data.clear();
    }

    /// What is to be done, in order.
    pub fn commands(&self) -> &[Command] {
        &self.commands
    }

    /// Bytes of an upload.
    pub fn upload_bytes(&self, to: View, from: usize) -> &[u8] {
        &self.data[from..from + to.bytes as usize]
    }

    /// Uploads `values` to the start of `to`. Uploads come before all dispatches: an adapter performs them first.
    pub fn upload<T: bytemuck::NoUninit>(&mut self, to: View, values: &[T]) {
        let bytes: &[u8] = bytemuck::cast_slice(values);
        debug_assert!(
            self.commands.iter().all(|c| matches!(c, Command::Upload { .. })),
            "uploads are recorded before dispatches"
        );
        if bytes.is_empty() {
            return;
        }
        let from = self.data.len();
        self.data.extend_from_slice(bytes);
        self.commands.push(Command::Upload { to: to.slice(0, bytes.len() as u64), from });
    }

    /// Adds a dispatch.
    pub fn dispatch(&mut self, dispatch: Dispatch) {
        self.commands.push(Command::Dispatch(dispatch));
    }

    /// Adds a copy.
    pub fn copy(&mut self, from: View, to: View) {
        assert!(
            from.bytes == to.bytes && from.buffer != to.buffer,
            "copies are between buffers and of one size"
        );
        self.commands.push(Command::Copy { from, to });
    }

    /// Adds a read-back.
    pub fn read(&mut self, from: View) {
        self.commands.push(Command::Read(from));
    }

    /// What comes back when this runs, in order.
    pub fn read_views(&self) -> impl Iterator<Item = View> + '_ {
        self.commands.iter().filter_map(|c| if let Command::Read(view) = c { Some(*view) } else { None })
    }

    /// Bytes that come back when this runs.
    pub fn read_bytes(&self) -> u64 {
        self.read_views().map(|view| view.bytes).sum()
    }

    /// Dispatches in it; an indirect one counts once.
    pub fn dispatches(&self) -> impl Iterator<Item = &Dispatch> {
        self.commands.iter().filter_map(|c| if let Command::Dispatch(d) = c { Some(d) } else { None })
    }
}
