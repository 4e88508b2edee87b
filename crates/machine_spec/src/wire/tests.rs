use super::unsupported::Fields;
use super::*;

fn parse(json: &str) -> Result<VmConfig, serde_json::Error> {
    serde_json::from_str(json)
}

#[test]
fn a_description_as_a_client_of_cloud_hypervisor_sends_it_is_taken() {
    let config = parse(
        r#"{"cpus":{"boot_vcpus":2,"max_vcpus":2,"topology":null,"kvm_hyperv":false,"max_phys_bits":46,
                    "affinity":null,"features":{"amx":false},"nested":true,"core_scheduling":"Vm"},
            "memory":{"size":1073741824,"mergeable":false,"hotplug_method":"Acpi","hotplug_size":0,
                      "shared":true,"hugepages":false,"prefault":false,"reserve":false,"zones":[],"thp":true},
            "payload":{"kernel":"/k","cmdline":"console=hvc0","igvm":null,"host_data":null},
            "disks":[{"path":"/d","readonly":true,"iommu":false,"vhost_user":false,"vhost_socket":null,
                      "num_queues":2,"queue_size":128,"rate_limiter_config":{"bandwidth":null,"ops":null},
                      "pci_segment":0,"image_type":"Raw","sparse":true}],
            "net":[{"tap":"t","vhost_mode":"Client","offload_tso":true,"num_queues":2,"queue_size":256}],
            "rng":{"src":"/dev/urandom","iommu":false},
            "serial":{"mode":"Null"},"console":{"mode":"Tty","iommu":false},
            "debug_console":{"file":null,"mode":"Off","iobase":233},
            "platform":{"num_pci_segments":1,"iommu_segments":null,"tdx":false},
            "iommu":false,"watchdog":false,"pvpanic":false,"landlock_enable":false,"balloon":null}"#,
    )
    .unwrap();
    assert_eq!(config.cpus.boot_vcpus, 2);
    assert_eq!(config.disks.as_ref().unwrap()[0].num_queues, 2);
    assert!(crate::MachineSpec::from_config(config, &mut || [0; 6]).is_ok());
}

#[test]
fn unknown_fields_are_refused_by_name_in_every_object() {
    for json in [
        r#"{"payload":{},"colour":1}"#,
        r#"{"payload":{"colour":1}}"#,
        r#"{"payload":{},"cpus":{"boot_vcpus":1,"max_vcpus":1,"colour":1}}"#,
        r#"{"payload":{},"cpus":{"boot_vcpus":1,"max_vcpus":1,"topology":{"colour":1}}}"#,
        r#"{"payload":{},"memory":{"size":1,"colour":1}}"#,
        r#"{"payload":{},"disks":[{"colour":1}]}"#,
        r#"{"payload":{},"net":[{"colour":1}]}"#,
        r#"{"payload":{},"rng":{"src":"a","colour":1}}"#,
        r#"{"payload":{},"balloon":{"size":0,"colour":1}}"#,
        r#"{"payload":{},"serial":{"mode":"Off","colour":1}}"#,
        r#"{"payload":{},"console":{"mode":"Off","colour":1}}"#,
        r#"{"payload":{},"console_ports":[{"mode":"Off","colour":1}]}"#,
        r#"{"payload":{},"platform":{"colour":1}}"#,
    ] {
        let text = parse(json).unwrap_err().to_string();
        assert!(text.contains("unknown field `colour`"), "{json}: {text}");
    }
}

#[test]
fn required_fields_are_required() {
    for (json, field) in [
        ("{}", "payload"),
        (r#"{"payload":{},"cpus":{"boot_vcpus":1}}"#, "max_vcpus"),
        (r#"{"payload":{},"memory":{}}"#, "size"),
        (r#"{"payload":{},"rng":{}}"#, "src"),
        (r#"{"payload":{},"balloon":{}}"#, "size"),
        (r#"{"payload":{},"serial":{}}"#, "mode"),
        (r#"{"payload":{},"console":{}}"#, "mode"),
    ] {
        let text = parse(json).unwrap_err().to_string();
        assert!(text.contains(&format!("missing field `{field}`")), "{json}: {text}");
    }
}

#[test]
fn a_field_given_twice_is_refused() {
    let text = parse(r#"{"payload":{},"payload":{}}"#).unwrap_err().to_string();
    assert!(text.contains("duplicate field `payload`"), "{text}");
}

/// Every field that is not honoured: null is fine, and a value that asks for something names the field.
fn check_unsupported<T: serde::de::DeserializeOwned + Fields>(required: &str) {
    for field in T::UNSUPPORTED {
        let with = |value: &str| {
            let comma = if required.is_empty() { "" } else { "," };
            serde_json::from_str::<T>(&format!(r#"{{{required}{comma}"{field}":{value}}}"#))
        };
        assert!(with("null").is_ok(), "{field}");
        for value in ["7", "\"other\"", "[1]", r#"{"a":true}"#] {
            let text = with(value).err().unwrap_or_else(|| panic!("{field}: {value} taken")).to_string();
            assert!(text.contains(&format!("field `{field}` is not supported")), "{field}: {text}");
        }
    }
}

#[test]
fn fields_that_are_not_honoured_are_taken_empty_and_refused_otherwise() {
    check_unsupported::<VmConfig>(r#""payload":{}"#);
    check_unsupported::<PlatformConfig>("");
    check_unsupported::<CpusConfig>(r#""boot_vcpus":1,"max_vcpus":1"#);
    check_unsupported::<MemoryConfig>(r#""size":1"#);
    check_unsupported::<PayloadConfig>("");
    check_unsupported::<DiskConfig>("");
    check_unsupported::<NetConfig>("");
    check_unsupported::<RngConfig>(r#""src":"a""#);
    check_unsupported::<VmResize>("");
    check_unsupported::<ConsoleConfig>(r#""mode":"Off""#);
}

#[test]
fn a_default_that_would_have_to_be_turned_off_is_refused() {
    for json in [
        r#"{"payload":{},"net":[{"offload_tso":false}]}"#,
        r#"{"payload":{},"disks":[{"lock_granularity":"Full"}]}"#,
        r#"{"payload":{},"disks":[{"rate_limiter_config":{"ops":{"size":1,"refill_time":1}}}]}"#,
        r#"{"payload":{},"debug_console":{"mode":"Tty"}}"#,
    ] {
        assert!(parse(json).unwrap_err().to_string().contains("is not supported"), "{json}");
    }
}

#[test]
fn an_image_type_is_one_of_those_that_there_are_and_never_unknown() {
    let image_type = |name: &str| {
        let json = format!(r#"{{"payload":{{}},"disks":[{{"path":"/d","image_type":"{name}"}}]}}"#);
        parse(&json).map(|config| config.disks.unwrap()[0].image_type.unwrap())
    };
    for (name, expected) in [
        ("Raw", ImageType::Raw),
        ("Qcow2", ImageType::Qcow2),
        ("FlatVmdk", ImageType::FlatVmdk),
        ("Vmdk", ImageType::FlatVmdk),
        ("FixedVhd", ImageType::FixedVhd),
        ("Vhd", ImageType::FixedVhd),
        ("Vhdx", ImageType::Vhdx),
        ("Vdi", ImageType::Vdi),
    ] {
        assert_eq!(image_type(name).unwrap(), expected);
    }
    let text = image_type("Unknown").unwrap_err().to_string();
    assert!(text.contains("unknown variant `Unknown`, expected one of `Raw`, `Qcow2`"), "{text}");
}

#[test]
fn deep_nesting_is_refused_without_a_panic() {
    let json = format!(r#"{{"payload":{{}},"numa":{}{}}}"#, "[".repeat(100_000), "]".repeat(100_000));
    assert!(parse(&json).is_err());
}
