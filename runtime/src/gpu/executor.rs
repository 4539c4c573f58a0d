//! Runs recordings on wgpu: a command buffer and a submit for each. Only one that is read from is waited for.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use porism_shaders::{Constants, Features, KernelId};

use super::adapter::Gpu;
use super::uploads::{Turn, Uploads};
use crate::device::staging::LEAST_UPLOADS;
use crate::device::{Executor, Staging, Tuning};
use crate::error::Error;
use crate::recording::{BufferId, Command, Dispatch, Groups, Recording, View};

/// Weights reach the adapter in pieces of this size, so that the host never holds more than a few of them.
const UPLOAD_PIECE_BYTES: usize = 4 << 20;
/// So many uploaded bytes may be on their way where there is no plan, which bounds the driver's staging memory.
const MOST_UPLOAD_BYTES: u64 = 64 << 20;

/// An adapter as a device.
pub struct GpuExecutor {
    gpu: Gpu,
    buffers: Vec<wgpu::Buffer>,
    pipelines: HashMap<Program, Pipeline>,
    bind_groups: HashMap<(Program, Vec<View>), wgpu::BindGroup>,
    /// Pipeline and bind group of each dispatch of the last recording: the next one is mostly alike.
    prepared: Vec<Prepared>,
    staging: Option<wgpu::Buffer>,
    /// What the plan has: `staging` then stays, and more has a buffer of its own.
    planned: Option<Staging>,
    /// The buffer that the last recording's reads are in.
    reading: Option<wgpu::Buffer>,
    read_back: Vec<u8>,
    timestamps: Option<Timestamps>,
    last_pass_seconds: Option<f64>,
    last_encode_seconds: f64,
    uploads: Uploads<wgpu::SubmissionIndex>,
    submits: u64,
}

/// What is compiled: a kernel, the features it is linked with and its override constants.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Program {
    kernel: KernelId,
    features: Features,
    constants: Constants,
}

impl Program {
    fn of(dispatch: &Dispatch) -> Self {
        Program { kernel: dispatch.kernel, features: dispatch.features, constants: dispatch.constants }
    }
}

/// What a dispatch needs besides its Params, and for which dispatch that is.
struct Prepared {
    program: Program,
    bindings: Vec<View>,
    pipeline: wgpu::ComputePipeline,
    group: wgpu::BindGroup,
}

impl Prepared {
    fn is_for(&self, dispatch: &Dispatch) -> bool {
        self.program == Program::of(dispatch) && self.bindings == dispatch.bindings()
    }
}

struct Pipeline {
    pipeline: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
}

/// Does some work inside error scopes: what the driver finds wrong with it becomes an error instead of ending the process.
fn scoped<T>(device: &wgpu::Device, work: impl FnOnce() -> T) -> Result<T, wgpu::Error> {
    let memory = device.push_error_scope(wgpu::ErrorFilter::OutOfMemory);
    let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
    let validation = device.push_error_scope(wgpu::ErrorFilter::Validation);
    let result = work();
    let validation = pollster::block_on(validation.pop());
    let internal = pollster::block_on(internal.pop());
    let memory = pollster::block_on(memory.pop());
    match memory.or(internal).or(validation) {
        None => Ok(result),
        Some(error) => Err(error),
    }
}

struct Timestamps {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    staging: wgpu::Buffer,
}

impl GpuExecutor {
    /// An executor on an opened adapter.
    pub fn new(gpu: Gpu) -> Self {
        GpuExecutor {
            gpu,
            buffers: Vec::new(),
            pipelines: HashMap::new(),
            bind_groups: HashMap::new(),
            prepared: Vec::new(),
            staging: None,
            planned: None,
            reading: None,
            read_back: Vec::new(),
            timestamps: None,
            last_pass_seconds: None,
            last_encode_seconds: 0.0,
            uploads: Uploads::new(MOST_UPLOAD_BYTES),
            submits: 0,
        }
    }

    /// The adapter it runs on.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// Takes the device away, as an unplugged card would: for tests of what happens then.
    pub fn loss_switch(&self) -> impl Fn() + 'static {
        let device = self.gpu.device.clone();
        move || device.destroy()
    }

    /// From now on measures how long the passes of each run take on the device, where it can tell.
    pub fn enable_timestamps(&mut self) {
        let device = &self.gpu.device;
        if self.timestamps.is_some() || !device.features().contains(wgpu::Features::TIMESTAMP_QUERY) {
            return;
        }
        let buffer = |label, usage| {
            device.create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: 16,
                usage,
                mapped_at_creation: false,
            })
        };
        self.timestamps = Some(Timestamps {
            queries: device.create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("porism.timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2,
            }),
            resolved: buffer(
                "porism.timestamps",
                wgpu::BufferUsages::QUERY_RESOLVE | wgpu::BufferUsages::COPY_SRC,
            ),
            staging: buffer(
                "porism.timestamps.staging",
                wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST,
            ),
        });
    }

    fn lost(&self) -> Result<(), Error> {
        match &*self.gpu.lost.lock().expect("never poisoned") {
            None => Ok(()),
            Some(reason) => {
                Err(Error::DeviceLost { device: self.gpu.profile.name.clone(), reason: reason.clone() })
            }
        }
    }

    fn driver_error(&self, label: &str, reason: impl ToString) -> Error {
        let lost = self.lost();
        let reason = reason.to_string();
        lost.err().unwrap_or(Error::Driver {
            device: self.gpu.profile.name.clone(),
            label: label.to_owned(),
            reason,
        })
    }

    fn create_buffer(
        &self,
        label: &str,
        bytes: u64,
        usage: wgpu::BufferUsages,
    ) -> Result<wgpu::Buffer, Error> {
        let limit = self.gpu.profile.limits.max_buffer_size;
        let refuse = |limit: String| Error::OutOfMemory {
            device: self.gpu.profile.name.clone(),
            label: label.to_owned(),
            bytes,
            limit,
        };
        if bytes > limit {
            return Err(refuse(format!("max_buffer_size is {limit}")));
        }
        self.lost()?;
        let device = &self.gpu.device;
        let size = bytes.next_multiple_of(16).max(16);
        let descriptor =
            wgpu::BufferDescriptor { label: Some(label), size, usage, mapped_at_creation: false };
        scoped(device, || device.create_buffer(&descriptor)).map_err(|error| match error {
            wgpu::Error::OutOfMemory { .. } => refuse(error.to_string()),
            _ => self.driver_error(label, error),
        })
    }

    fn pipeline(&mut self, program: Program) -> Result<(), Error> {
        if self.pipelines.contains_key(&program) {
            return Ok(());
        }
        let made = scoped(&self.gpu.device, || self.create_pipeline(program))
            .map_err(|error| self.driver_error(program.kernel.kernel().name, error))?;
        self.pipelines.insert(program, made);
        Ok(())
    }

    fn create_pipeline(&self, program: Program) -> Pipeline {
        let kernel = program.kernel.kernel();
        let device = &self.gpu.device;
        let module = device.create_shader_module(wgpu::ShaderModuleDescriptor {
            label: Some(kernel.name),
            source: wgpu::ShaderSource::Wgsl(kernel.variant(program.features).wgsl.into()),
        });
        let entries: Vec<wgpu::BindGroupLayoutEntry> = kernel
            .bindings
            .iter()
            .zip(0..)
            .map(|(binding, number)| wgpu::BindGroupLayoutEntry {
                binding: number,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only: !binding.writes },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(kernel.name),
            entries: &entries,
        });
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(kernel.name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: kernel.params_bytes,
        });
        let constants: Vec<(&str, f64)> =
            kernel.named(&program.constants).map(|(name, value)| (name, f64::from(value))).collect();
        let pipeline = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(kernel.name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: &constants,
                // Kernels write workgroup memory before they read it.
                zero_initialize_workgroup_memory: false,
            },
            cache: None,
        });
        Pipeline { pipeline, layout }
    }

    /// Makes the pipeline and the bind group of dispatch number `index` unless they are those of the last recording.
    fn prepare(&mut self, index: usize, dispatch: &Dispatch) -> Result<(), Error> {
        if self.prepared.get(index).is_some_and(|prepared| prepared.is_for(dispatch)) {
            return Ok(());
        }
        let program = Program::of(dispatch);
        self.pipeline(program)?;
        let pipeline = &self.pipelines[&program];
        let key = (program, dispatch.bindings().to_vec());
        if !self.bind_groups.contains_key(&key) {
            let entries: Vec<wgpu::BindGroupEntry<'_>> = dispatch
                .bindings()
                .iter()
                .zip(0..)
                .map(|(view, binding)| wgpu::BindGroupEntry {
                    binding,
                    resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                        buffer: &self.buffers[view.buffer.0 as usize],
                        offset: view.offset,
                        size: std::num::NonZeroU64::new(view.bytes.next_multiple_of(16)),
                    }),
                })
                .collect();
            let descriptor = wgpu::BindGroupDescriptor {
                label: Some(dispatch.label.what),
                layout: &pipeline.layout,
                entries: &entries,
            };
            let device = &self.gpu.device;
            let group = scoped(device, || device.create_bind_group(&descriptor))
                .map_err(|error| self.driver_error(&dispatch.label.to_string(), error))?;
            self.bind_groups.insert(key.clone(), group);
        }
        let prepared = Prepared {
            program,
            pipeline: pipeline.pipeline.clone(),
            group: self.bind_groups[&key].clone(),
            bindings: key.1,
        };
        match self.prepared.get_mut(index) {
            Some(slot) => *slot = prepared,
            None => self.prepared.push(prepared),
        }
        Ok(())
    }

    fn staging(&mut self, bytes: u64) -> Result<wgpu::Buffer, Error> {
        match &self.staging {
            Some(buffer) if buffer.size() >= bytes => Ok(buffer.clone()),
            _ if self.planned.is_some() => self.create_staging(bytes),
            _ => {
                let made = self.create_staging(bytes.next_power_of_two().max(4096))?;
                self.staging = Some(made.clone());
                Ok(made)
            }
        }
    }

    fn create_staging(&self, bytes: u64) -> Result<wgpu::Buffer, Error> {
        let usage = wgpu::BufferUsages::MAP_READ | wgpu::BufferUsages::COPY_DST;
        self.create_buffer("porism.read_back", bytes, usage)
    }

    fn encode(&self, recording: &Recording, staging: Option<&wgpu::Buffer>) -> wgpu::CommandBuffer {
        let descriptor = wgpu::CommandEncoderDescriptor { label: Some("porism.step") };
        let mut encoder = self.gpu.device.create_command_encoder(&descriptor);
        let mut open: Option<wgpu::ComputePass<'static>> = None;
        let mut last = None;
        let mut first_pass = true;
        let passes = {
            // A copy ends the pass, so the last timestamp belongs to the last pass.
            let mut count = 0;
            let mut inside = false;
            for command in recording.commands() {
                match command {
                    Command::Dispatch(_) if !inside => {
                        inside = true;
                        count += 1;
                    }
                    Command::Dispatch(_) | Command::Upload { .. } => {}
                    Command::Copy { .. } | Command::Read(_) => inside = false,
                }
            }
            count
        };
        let mut begun = 0;
        let mut number = 0;
        let mut read_at = 0;
        for command in recording.commands() {
            match command {
                // Written before.
                Command::Upload { .. } => {}
                Command::Dispatch(dispatch) => {
                    let prepared = &self.prepared[number];
                    number += 1;
                    if open.is_none() {
                        begun += 1;
                        let timestamp_writes =
                            self.timestamps.as_ref().map(|timestamps| wgpu::ComputePassTimestampWrites {
                                query_set: &timestamps.queries,
                                beginning_of_pass_write_index: first_pass.then_some(0),
                                end_of_pass_write_index: (begun == passes).then_some(1),
                            });
                        let timestamp_writes = timestamp_writes.filter(|writes| {
                            writes.beginning_of_pass_write_index.is_some()
                                || writes.end_of_pass_write_index.is_some()
                        });
                        first_pass = false;
                        let descriptor =
                            wgpu::ComputePassDescriptor { label: Some("porism.pass"), timestamp_writes };
                        open = Some(encoder.begin_compute_pass(&descriptor).forget_lifetime());
                        last = None;
                    }
                    let pass = open.as_mut().expect("opened above");
                    if last != Some(&prepared.pipeline) {
                        pass.set_pipeline(&prepared.pipeline);
                        last = Some(&prepared.pipeline);
                    }
                    pass.set_bind_group(0, &prepared.group, &[]);
                    let params = dispatch.kernel.kernel().params_bytes as usize;
                    if params > 0 {
                        pass.set_immediates(0, &dispatch.params[..params]);
                    }
                    match dispatch.groups {
                        Groups::Direct([x, y, z]) => pass.dispatch_workgroups(x, y, z),
                        Groups::Indirect(view) => {
                            pass.dispatch_workgroups_indirect(
                                &self.buffers[view.buffer.0 as usize],
                                view.offset,
                            );
                        }
                    }
                }
                Command::Copy { from, to } => {
                    open = None;
                    encoder.copy_buffer_to_buffer(
                        &self.buffers[from.buffer.0 as usize],
                        from.offset,
                        &self.buffers[to.buffer.0 as usize],
                        to.offset,
                        from.bytes,
                    );
                }
                Command::Read(from) => {
                    open = None;
                    let to = staging.expect("sized by read_bytes");
                    encoder.copy_buffer_to_buffer(
                        &self.buffers[from.buffer.0 as usize],
                        from.offset,
                        to,
                        read_at,
                        from.bytes,
                    );
                    read_at += from.bytes;
                }
            }
        }
        drop(open);
        if let (Some(timestamps), true) = (&self.timestamps, passes > 0) {
            encoder.resolve_query_set(&timestamps.queries, 0..2, &timestamps.resolved, 0);
            encoder.copy_buffer_to_buffer(&timestamps.resolved, 0, &timestamps.staging, 0, 16);
        }
        encoder.finish()
    }

    /// Writes in words; waits for earlier writes where too much is on its way.
    fn write_bytes(&mut self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let device = self.gpu.device.clone();
        scoped(&device, || self.write_parts(buffer, offset, bytes))
            .map_err(|error| self.driver_error("write", error))?
    }

    fn write_parts(&mut self, buffer: &wgpu::Buffer, offset: u64, bytes: &[u8]) -> Result<(), Error> {
        let mut at = offset;
        let window = usize::try_from(self.uploads.window()).unwrap_or(usize::MAX);
        for part in bytes.chunks(UPLOAD_PIECE_BYTES.min(window)) {
            self.make_room(part.len() as u64)?;
            let whole = part.len() / 4 * 4;
            self.gpu.queue.write_buffer(buffer, at, &part[..whole]);
            if whole < part.len() {
                // The last bytes of an odd tensor are padded to a word.
                let mut word = [0; 4];
                word[..part.len() - whole].copy_from_slice(&part[whole..]);
                self.gpu.queue.write_buffer(buffer, at + whole as u64, &word);
            }
            at += part.len() as u64;
            self.uploads.written(part.len() as u64);
        }
        Ok(())
    }

    /// Waits until so many bytes may be written: for the window before this one, and what was submitted before that.
    /// What is computed since goes on.
    fn make_room(&mut self, bytes: u64) -> Result<(), Error> {
        loop {
            match self.uploads.before(bytes) {
                Turn::Write => return Ok(()),
                Turn::Submit => self.submit_uploads(),
                Turn::Wait(window) => self.wait(Some(window))?,
            }
        }
    }

    /// Writes what a recording uploads, and submits its commands, whose pipelines and bind groups are there.
    fn submit_prepared(
        &mut self,
        recording: &Recording,
        staging: Option<wgpu::Buffer>,
        started: Instant,
    ) -> Result<(), Error> {
        if self.uploads.is_open() {
            // On their own, so that waiting for them is not waiting for what is computed now.
            self.submit_uploads();
        }
        for command in recording.commands() {
            if let Command::Upload { to, from } = command {
                let buffer = self.buffers[to.buffer.0 as usize].clone();
                self.write_parts(&buffer, to.offset, recording.upload_bytes(*to, *from))?;
            }
        }
        let commands = self.encode(recording, staging.as_ref());
        self.last_encode_seconds = started.elapsed().as_secs_f64();
        let by = self.gpu.queue.submit([commands]);
        // What the recording uploads is little, and goes along with it.
        self.uploads.submitted(by);
        self.reading = staging;
        self.submits += 1;
        Ok(())
    }

    /// Sends what was written on its way.
    fn submit_uploads(&mut self) {
        let by = self.gpu.queue.submit([]);
        self.uploads.submitted(by);
    }

    /// Waits for a submission and all before it, or for everything.
    fn wait(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), Error> {
        loop {
            let poll = wgpu::PollType::Wait {
                submission_index: submission.clone(),
                timeout: Some(Duration::from_secs(60)),
            };
            match self.gpu.device.poll(poll) {
                Ok(_) => return self.lost(),
                Err(wgpu::PollError::Timeout) => self.lost()?,
                Err(error) => return Err(self.driver_error("wait", error)),
            }
        }
    }

    /// Maps the first `bytes` bytes of `buffer`, which the device has finished writing.
    fn mapped(&self, buffer: &wgpu::Buffer, bytes: u64, out: &mut Vec<u8>) -> Result<(), Error> {
        let range = buffer
            .slice(..bytes)
            .get_mapped_range()
            .map_err(|error| self.driver_error("read back", error))?;
        out.extend_from_slice(&range);
        drop(range);
        buffer.unmap();
        Ok(())
    }
}

impl<'c> Executor<'c> for GpuExecutor {
    fn tuning(&self) -> Tuning {
        self.gpu.tuning
    }

    fn allocate(&mut self, label: &str, bytes: u64) -> Result<BufferId, Error> {
        let usage = wgpu::BufferUsages::STORAGE
            | wgpu::BufferUsages::COPY_SRC
            | wgpu::BufferUsages::COPY_DST
            | wgpu::BufferUsages::INDIRECT;
        let buffer = self.create_buffer(label, bytes, usage)?;
        self.buffers.push(buffer);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn allocate_weights(
        &mut self,
        label: &str,
        bytes: u64,
        _pieces: Vec<(u64, &'c [u8])>,
    ) -> Result<BufferId, Error> {
        let buffer =
            self.create_buffer(label, bytes, wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_DST)?;
        self.buffers.push(buffer);
        Ok(BufferId(self.buffers.len() as u32 - 1))
    }

    fn maps_weights(&self) -> bool {
        false
    }

    fn write(&mut self, to: View, bytes: &[u8]) -> Result<(), Error> {
        self.lost()?;
        let buffer = self.buffers[to.buffer.0 as usize].clone();
        self.write_bytes(&buffer, to.offset, bytes)
    }

    fn submit(&mut self, recording: &Recording) -> Result<(), Error> {
        self.lost()?;
        let started = Instant::now();
        for (index, dispatch) in recording.dispatches().enumerate() {
            self.prepare(index, dispatch)?;
        }
        let read_bytes = recording.read_bytes();
        let staging = if read_bytes > 0 { Some(self.staging(read_bytes)?) } else { None };
        let device = self.gpu.device.clone();
        scoped(&device, || self.submit_prepared(recording, staging, started))
            .map_err(|error| self.driver_error("step", error))?
    }

    fn complete(&mut self, recording: &Recording) -> Result<&[u8], Error> {
        let read_bytes = recording.read_bytes();
        let staging = self.reading.take().filter(|_| read_bytes > 0);
        if let Some(staging) = &staging {
            staging.slice(..read_bytes).map_async(wgpu::MapMode::Read, |_| {});
        }
        if let Some(timestamps) = &self.timestamps {
            timestamps.staging.slice(..).map_async(wgpu::MapMode::Read, |_| {});
        }
        self.wait(None)?;
        self.uploads.arrived();
        let mut read_back = std::mem::take(&mut self.read_back);
        read_back.clear();
        if let Some(staging) = &staging {
            self.mapped(staging, read_bytes, &mut read_back)?;
        }
        if let Some(timestamps) = &self.timestamps {
            let mut ticks = Vec::with_capacity(16);
            self.mapped(&timestamps.staging, 16, &mut ticks)?;
            let ticks: &[u64] =
                &[0, 8].map(|at| u64::from_le_bytes(ticks[at..at + 8].try_into().expect("8 bytes")));
            let period = f64::from(self.gpu.queue.get_timestamp_period());
            self.last_pass_seconds = Some(ticks[1].saturating_sub(ticks[0]) as f64 * period * 1e-9);
        }
        self.read_back = read_back;
        Ok(&self.read_back)
    }

    fn last_pass_seconds(&self) -> Option<f64> {
        self.last_pass_seconds
    }

    fn last_encode_seconds(&self) -> f64 {
        self.last_encode_seconds
    }

    fn set_staging(&mut self, staging: &Staging) -> Result<(), Error> {
        // A device with nothing to do has no uploads, but were something written after all, it has to arrive.
        self.uploads.set_most(staging.uploads.max(LEAST_UPLOADS));
        if staging.timestamps == 0 {
            self.timestamps = None;
        }
        self.staging = match staging.read_back {
            0 => None,
            bytes => Some(self.create_staging(bytes)?),
        };
        self.planned = Some(*staging);
        Ok(())
    }

    fn staging_bytes(&self) -> u64 {
        let read_back = self.staging.as_ref().map_or(0, wgpu::Buffer::size);
        let timestamps = self.timestamps.as_ref().map_or(0, |t| t.resolved.size() + t.staging.size());
        match self.planned {
            None => self.uploads.most() + read_back + timestamps,
            Some(Staging { uploads: 0, .. }) => read_back + timestamps,
            // An adapter that cannot tell the time leaves the room for it unused.
            Some(planned) => self.uploads.most() + read_back + timestamps.max(planned.timestamps),
        }
    }

    fn submits(&self) -> u64 {
        self.submits
    }
}
