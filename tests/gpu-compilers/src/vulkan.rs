//! Pipelines on the first Vulkan device, and what its driver says of them (`VK_KHR_pipeline_executable_properties`).

use std::ffi::{CStr, c_char};

use anyhow::{Context as _, Result, ensure};
use ash::vk;

use crate::emit::{self, Checks};
use porism_gpu_compilers::variants::Variant;

/// An opened device.
pub struct Vulkan {
    _entry: ash::Entry,
    device: ash::Device,
    statistics: ash::khr::pipeline_executable_properties::Device,
    checks: Checks,
    spirv_version: (u8, u8),
    subgroup_sizes_vary: bool,
    /// Driver and version, e.g. `radv Mesa 26.2.6-1`.
    pub compiler: String,
}

/// What a driver tells of one compiled form of a pipeline.
pub struct Executable {
    /// Its statistics by name.
    pub statistics: Vec<(String, u64)>,
    /// Listings by name: intermediate forms and the instructions of the device.
    pub listings: Vec<(String, String)>,
    /// Threads that run together.
    pub subgroup_size: u32,
}

impl Executable {
    /// A statistic, if there is one of this name.
    pub fn get(&self, name: &str) -> Option<u64> {
        self.statistics.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }
}

fn text(characters: &[c_char]) -> String {
    let bytes: Vec<u8> = characters.iter().take_while(|c| **c != 0).map(|c| *c as u8).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

impl Vulkan {
    /// Opens the first device as wgpu does. `unchecked`: without any check of indices, in the shader or by the driver.
    pub fn open(unchecked: bool) -> Result<Self> {
        // SAFETY: the loader is a Vulkan loader; its functions are used as the specification has it.
        let entry = unsafe { ash::Entry::load() }.context("no Vulkan loader")?;
        let application = vk::ApplicationInfo::default()
            .application_name(c"wgpu")
            .engine_name(c"wgpu-hal")
            .engine_version(2)
            .api_version(vk::API_VERSION_1_3);
        let create = vk::InstanceCreateInfo::default().application_info(&application);
        // SAFETY: the structures outlive the call. The instance lives as long as the process.
        let instance = unsafe { entry.create_instance(&create, None) }.context("no Vulkan instance")?;
        // SAFETY: as above.
        let all = unsafe { instance.enumerate_physical_devices() }.context("no Vulkan device")?;
        let physical = *all.first().context("no Vulkan device")?;

        let mut driver = vk::PhysicalDeviceDriverProperties::default();
        let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
        // SAFETY: the chain is of structures that Vulkan 1.3 has.
        unsafe { instance.get_physical_device_properties2(physical, &mut properties) };
        let version = properties.properties.api_version;
        let compiler = format!("{} {}", text(&driver.driver_name), text(&driver.driver_info));

        // SAFETY: as above.
        let known = unsafe { instance.enumerate_device_extension_properties(physical) }?;
        let has = |name: &CStr| known.iter().any(|e| text(&e.extension_name).as_bytes() == name.to_bytes());
        let wanted = ash::khr::pipeline_executable_properties::NAME;
        ensure!(has(wanted), "{compiler}: no {}", wanted.to_string_lossy());
        let robustness2 = has(ash::ext::robustness2::NAME) && !unchecked;

        let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default();
        let mut memory = vk::PhysicalDeviceVulkanMemoryModelFeatures::default();
        let mut f16 = vk::PhysicalDeviceShaderFloat16Int8Features::default();
        let mut features = vk::PhysicalDeviceFeatures2::default()
            .push_next(&mut sizes)
            .push_next(&mut memory)
            .push_next(&mut f16);
        if robustness2 {
            features = features.push_next(&mut robust);
        }
        // SAFETY: as above; the extension of the last structure is there.
        unsafe { instance.get_physical_device_features2(physical, &mut features) };

        let robust_buffers = robust.robust_buffer_access2 == vk::TRUE;
        let subgroup_sizes_vary = sizes.subgroup_size_control == vk::TRUE;
        let mut robust =
            vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(robust_buffers);
        let mut sizes = vk::PhysicalDeviceSubgroupSizeControlFeatures::default()
            .subgroup_size_control(subgroup_sizes_vary)
            .compute_full_subgroups(sizes.compute_full_subgroups == vk::TRUE);
        let mut memory = vk::PhysicalDeviceVulkanMemoryModelFeatures::default()
            .vulkan_memory_model(memory.vulkan_memory_model == vk::TRUE);
        let mut f16 = vk::PhysicalDeviceShaderFloat16Int8Features::default()
            .shader_float16(f16.shader_float16 == vk::TRUE);
        let mut tell = vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default()
            .pipeline_executable_info(true);
        let core = vk::PhysicalDeviceFeatures::default().robust_buffer_access(!unchecked);
        let mut names = vec![wanted.as_ptr()];
        if robustness2 {
            names.push(ash::ext::robustness2::NAME.as_ptr());
        }
        let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
        let mut create = vk::DeviceCreateInfo::default()
            .queue_create_infos(&queues)
            .enabled_extension_names(&names)
            .enabled_features(&core)
            .push_next(&mut tell)
            .push_next(&mut sizes)
            .push_next(&mut memory)
            .push_next(&mut f16);
        if robustness2 {
            create = create.push_next(&mut robust);
        }
        // SAFETY: only features that the device has are asked for. The device lives as long as the process.
        let device = unsafe { instance.create_device(physical, &create, None) }.context("the device")?;
        let statistics = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
        Ok(Vulkan {
            _entry: entry,
            device,
            statistics,
            checks: Checks { trusted: unchecked, robust_buffers },
            spirv_version: if version >= vk::API_VERSION_1_3 { (1, 6) } else { (1, 5) },
            subgroup_sizes_vary,
            compiler,
        })
    }

    /// Compiles a variant; its executables, of which some drivers make several for different subgroup sizes.
    pub fn compile(&self, variant: &Variant) -> Result<Vec<Executable>> {
        let code = emit::spirv(variant, self.spirv_version, self.checks)?;
        let module = vk::ShaderModuleCreateInfo::default().code(&code);
        let bindings: Vec<_> = (0..variant.kernel.bindings.len() as u32)
            .map(|binding| {
                vk::DescriptorSetLayoutBinding::default()
                    .binding(binding)
                    .descriptor_count(1)
                    .descriptor_type(vk::DescriptorType::STORAGE_BUFFER)
                    .stage_flags(vk::ShaderStageFlags::COMPUTE)
            })
            .collect();
        let set = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
        let params = [vk::PushConstantRange::default()
            .stage_flags(vk::ShaderStageFlags::COMPUTE)
            .size(variant.kernel.params_bytes.max(4))];
        let flags = if self.subgroup_sizes_vary {
            vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE
        } else {
            vk::PipelineShaderStageCreateFlags::empty()
        };
        // SAFETY: the SPIR-V is naga's, the structures outlive the calls, and what is made is destroyed once, at the end.
        unsafe {
            let module = self.device.create_shader_module(&module, None).context("the module")?;
            let set = [self.device.create_descriptor_set_layout(&set, None)?];
            let mut layout = vk::PipelineLayoutCreateInfo::default().set_layouts(&set);
            if variant.kernel.params_bytes > 0 {
                layout = layout.push_constant_ranges(&params);
            }
            let layout = self.device.create_pipeline_layout(&layout, None)?;
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .flags(flags)
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(c"main");
            let create = vk::ComputePipelineCreateInfo::default()
                .flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                )
                .stage(stage)
                .layout(layout);
            let made = self.device.create_compute_pipelines(vk::PipelineCache::null(), &[create], None);
            let found = match made {
                Ok(pipelines) => {
                    let found = self.executables(pipelines[0]);
                    self.device.destroy_pipeline(pipelines[0], None);
                    found
                }
                Err((_, error)) => Err(error.into()),
            };
            self.device.destroy_pipeline_layout(layout, None);
            self.device.destroy_descriptor_set_layout(set[0], None);
            self.device.destroy_shader_module(module, None);
            found
        }
    }

    fn executables(&self, pipeline: vk::Pipeline) -> Result<Vec<Executable>> {
        let info = vk::PipelineInfoKHR::default().pipeline(pipeline);
        // SAFETY: the pipeline was made to tell these things.
        let all = unsafe { self.statistics.get_pipeline_executable_properties(&info) }?;
        let mut executables = Vec::new();
        for (index, properties) in all.iter().enumerate() {
            let info =
                vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index as u32);
            // SAFETY: as above.
            let told = unsafe { self.statistics.get_pipeline_executable_statistics(&info) }?;
            let value = |told: &vk::PipelineExecutableStatisticKHR<'_>| {
                // SAFETY: the format says which member of the union was written.
                unsafe {
                    match told.format {
                        vk::PipelineExecutableStatisticFormatKHR::BOOL32 => u64::from(told.value.b32),
                        vk::PipelineExecutableStatisticFormatKHR::INT64 => told.value.i64.max(0) as u64,
                        vk::PipelineExecutableStatisticFormatKHR::UINT64 => told.value.u64,
                        _ => told.value.f64 as u64,
                    }
                }
            };
            executables.push(Executable {
                statistics: told.iter().map(|told| (text(&told.name), value(told))).collect(),
                listings: self.listings(&info)?,
                subgroup_size: properties.subgroup_size,
            });
        }
        Ok(executables)
    }

    fn listings(&self, info: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<(String, String)>> {
        // ash makes no room for the texts, so the function is called by hand: how many, how long, the texts.
        let get = self.statistics.fp().get_pipeline_executable_internal_representations_khr;
        let device = self.device.handle();
        let mut count = 0;
        // SAFETY: without an array only the count is written.
        unsafe { get(device, info, &mut count, std::ptr::null_mut()) }.result().context("listings")?;
        let mut found = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
        // SAFETY: the array has `count` elements; without room for the texts only their sizes are written.
        unsafe { get(device, info, &mut count, found.as_mut_ptr()) }.result().context("listings")?;
        let mut texts: Vec<Vec<u8>> = found.iter().map(|one| vec![0; one.data_size]).collect();
        for (one, text) in found.iter_mut().zip(&mut texts) {
            one.p_data = text.as_mut_ptr().cast();
        }
        // SAFETY: each element points to as many bytes as it said it wants.
        unsafe { get(device, info, &mut count, found.as_mut_ptr()) }.result().context("listings")?;
        let named = found.iter().zip(&texts).map(|(one, bytes)| {
            (text(&one.name), String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned())
        });
        Ok(named.collect())
    }
}
