//! A device with its part of the model, and what it is doing.

use crate::device::{DeviceId, Executor};
use crate::model::Model;
use crate::model::buffers::Step;
use crate::model::ops::Ops;
use crate::recording::{Recording, View};
use crate::weights::Pool;

/// A device with its part of the model.
pub struct Node<'c> {
    /// What runs its recordings.
    pub executor: Box<dyn Executor<'c> + 'c>,
    /// For people.
    pub name: String,
    /// Its number.
    pub index: DeviceId,
    /// What it holds.
    pub model: Model,
    /// Its buffers.
    pub step: Step,
    /// Slots, where its experts come and go.
    pub pool: Option<Pool<'c>>,
    /// What was recorded and has not been submitted.
    pub recording: Recording,
    /// Which reads of the recording, by number, are the rig's own.
    pub(super) own_reads: Vec<usize>,
    /// Layers whose picks are among those reads, only to be counted.
    pub(super) counted: Vec<(u32, u32)>,
    /// Slots whose experts may be at work.
    pub(super) busy: Vec<usize>,
    /// Steps that were submitted and not waited for.
    pub(super) unfinished: u32,
}

impl<'c> Node<'c> {
    /// A device whose weights and buffers are there.
    pub fn new(
        executor: Box<dyn Executor<'c> + 'c>,
        name: String,
        index: DeviceId,
        model: Model,
        step: Step,
        pool: Option<Pool<'c>>,
    ) -> Self {
        Node {
            executor,
            name,
            index,
            model,
            step,
            pool,
            recording: Recording::default(),
            own_reads: vec![],
            counted: vec![],
            busy: vec![],
            unfinished: 0,
        }
    }

    pub(super) fn clear(&mut self) {
        self.recording.clear();
        self.own_reads.clear();
        self.counted.clear();
    }

    /// The vocabulary for the recording, what the device holds, and its buffers.
    pub fn recorder(&mut self, tokens: u32, layer: Option<u32>) -> (Ops<'_>, &Model, &Step) {
        let (recording, step) = (&mut self.recording, &self.step);
        let unused = step.activations.unused;
        let ops = Ops { recording, tuning: self.executor.tuning(), tokens, layer, unused };
        (ops, &self.model, step)
    }

    /// Records a read whose bytes go to the rig, not to the caller.
    pub(super) fn read(&mut self, view: View) {
        self.own_reads.push(self.recording.read_views().count());
        self.recording.read(view);
    }

    /// The host waits while it computes: it gets its work after the adapters have theirs.
    pub(super) fn waits(&self) -> bool {
        self.index == DeviceId::Host
    }
}
