//! The procedures: number, name, access, arguments and reply, each declared once.
//!
//! Numbers, fields, their order and types are facts of libvirt's src/remote/remote_protocol.x and qemu_protocol.x (versions 9 to
//! 11). The structure of the arguments carries the procedure's name and is what a client sends; its reply is
//! [`Call::Reply`]. Procedures that are not here are answered as unknown, which clients take for "not supported".
//!
//! **Access.** What a read-only connection may call is libvirt's own rule, read from two places: the public functions of
//! src/libvirt-*.c that refuse a read-only connection (`virCheckReadOnlyGoto`) are `[write]`; those newer than that
//! reading are `[read]` when every `@acl` permission of the procedure is `getattr`, `read` or `search*`. A few functions refuse
//! only with certain flags (secure or migratable XML, asking the guest agent): `[read if ...]` says when they are allowed.
//! Not every reading procedure is harmless to the host, which is why some are `[write]` there: the guest
//! agent's answers, memory contents, capabilities of a given emulator binary.
#![expect(missing_docs, reason = "procedures and fields have the protocol's own names")]

use crate::call::procedures;
use crate::limits::*;
use crate::types::*;
use crate::xdr::{Opaque, Uuid};

procedures! {
    1 ConnectOpen "virConnectOpen" [read] { name: Option<String>, flags: u32 } -> ();
    2 ConnectClose "virConnectClose" [read] {} -> ();
    3 ConnectGetType "virConnectGetType" [read] {} -> ConnectGetTypeReply { kind: String };
    4 ConnectGetVersion "virConnectGetVersion" [read] {} -> ConnectGetVersionReply { hv_ver: u64 };
    5 ConnectGetMaxVcpus "virConnectGetMaxVcpus" [read] { kind: Option<String> }
        -> ConnectGetMaxVcpusReply { max_vcpus: i32 };
    6 NodeGetInfo "virNodeGetInfo" [read] {}
        -> NodeGetInfoReply {
            model: ModelName, memory: u64, cpus: i32, mhz: i32, nodes: i32, sockets: i32, cores: i32,
            threads: i32,
        };
    7 ConnectGetCapabilities "virConnectGetCapabilities" [read] {}
        -> ConnectGetCapabilitiesReply { capabilities: String };
    8 DomainAttachDevice "virDomainAttachDevice" [write] { dom: RemoteDomain, xml: String } -> ();
    9 DomainCreate "virDomainCreate" [write] { dom: RemoteDomain } -> ();
    10 DomainCreateXml "virDomainCreateXML" [write] { xml_desc: String, flags: u32 }
        -> DomainCreateXmlReply { dom: RemoteDomain };
    11 DomainDefineXml "virDomainDefineXML" [write] { xml: String }
        -> DomainDefineXmlReply { dom: RemoteDomain };
    12 DomainDestroy "virDomainDestroy" [write] { dom: RemoteDomain } -> ();
    13 DomainDetachDevice "virDomainDetachDevice" [write] { dom: RemoteDomain, xml: String } -> ();
    14 DomainGetXmlDesc "virDomainGetXMLDesc" [read if flags & 9 == 0] { dom: RemoteDomain, flags: u32 }
        -> DomainGetXmlDescReply { xml: String };
    15 DomainGetAutostart "virDomainGetAutostart" [read] { dom: RemoteDomain }
        -> DomainGetAutostartReply { autostart: i32 };
    16 DomainGetInfo "virDomainGetInfo" [read] { dom: RemoteDomain }
        -> DomainGetInfoReply { state: u8, max_mem: u64, memory: u64, nr_virt_cpu: u16, cpu_time: u64 };
    17 DomainGetMaxMemory "virDomainGetMaxMemory" [read] { dom: RemoteDomain }
        -> DomainGetMaxMemoryReply { memory: u64 };
    18 DomainGetMaxVcpus "virDomainGetMaxVcpus" [read] { dom: RemoteDomain }
        -> DomainGetMaxVcpusReply { num: i32 };
    19 DomainGetOsType "virDomainGetOSType" [read] { dom: RemoteDomain }
        -> DomainGetOsTypeReply { kind: String };
    20 DomainGetVcpus "virDomainGetVcpus" [read] { dom: RemoteDomain, maxinfo: i32, maplen: i32 }
        -> DomainGetVcpusReply { info: Vec<VcpuInfo> [VCPUINFO_MAX], cpumaps: Opaque [CPUMAPS_MAX] };
    21 ConnectListDefinedDomains "virConnectListDefinedDomains" [read] { maxnames: i32 }
        -> ConnectListDefinedDomainsReply { names: Vec<String> [DOMAIN_LIST_MAX] };
    22 DomainLookupById "virDomainLookupByID" [read] { id: i32 }
        -> DomainLookupByIdReply { dom: RemoteDomain };
    23 DomainLookupByName "virDomainLookupByName" [read] { name: String }
        -> DomainLookupByNameReply { dom: RemoteDomain };
    24 DomainLookupByUuid "virDomainLookupByUUID" [read] { uuid: Uuid }
        -> DomainLookupByUuidReply { dom: RemoteDomain };
    25 ConnectNumOfDefinedDomains "virConnectNumOfDefinedDomains" [read] {}
        -> ConnectNumOfDefinedDomainsReply { num: i32 };
    26 DomainPinVcpu "virDomainPinVcpu" [write] {
        dom: RemoteDomain, vcpu: u32, cpumap: Opaque [CPUMAP_MAX],
    } -> ();
    27 DomainReboot "virDomainReboot" [write] { dom: RemoteDomain, flags: u32 } -> ();
    28 DomainResume "virDomainResume" [write] { dom: RemoteDomain } -> ();
    29 DomainSetAutostart "virDomainSetAutostart" [write] { dom: RemoteDomain, autostart: i32 } -> ();
    30 DomainSetMaxMemory "virDomainSetMaxMemory" [write] { dom: RemoteDomain, memory: u64 } -> ();
    31 DomainSetMemory "virDomainSetMemory" [write] { dom: RemoteDomain, memory: u64 } -> ();
    32 DomainSetVcpus "virDomainSetVcpus" [write] { dom: RemoteDomain, nvcpus: u32 } -> ();
    33 DomainShutdown "virDomainShutdown" [write] { dom: RemoteDomain } -> ();
    34 DomainSuspend "virDomainSuspend" [write] { dom: RemoteDomain } -> ();
    35 DomainUndefine "virDomainUndefine" [write] { dom: RemoteDomain } -> ();
    36 ConnectListDefinedNetworks "virConnectListDefinedNetworks" [read] { maxnames: i32 }
        -> ConnectListDefinedNetworksReply { names: Vec<String> [NETWORK_LIST_MAX] };
    37 ConnectListDomains "virConnectListDomains" [read] { maxids: i32 }
        -> ConnectListDomainsReply { ids: Vec<i32> [DOMAIN_LIST_MAX] };
    38 ConnectListNetworks "virConnectListNetworks" [read] { maxnames: i32 }
        -> ConnectListNetworksReply { names: Vec<String> [NETWORK_LIST_MAX] };
    39 NetworkCreate "virNetworkCreate" [write] { net: RemoteNetwork } -> ();
    40 NetworkCreateXml "virNetworkCreateXML" [write] { xml: String }
        -> NetworkCreateXmlReply { net: RemoteNetwork };
    41 NetworkDefineXml "virNetworkDefineXML" [write] { xml: String }
        -> NetworkDefineXmlReply { net: RemoteNetwork };
    42 NetworkDestroy "virNetworkDestroy" [write] { net: RemoteNetwork } -> ();
    43 NetworkGetXmlDesc "virNetworkGetXMLDesc" [read] { net: RemoteNetwork, flags: u32 }
        -> NetworkGetXmlDescReply { xml: String };
    44 NetworkGetAutostart "virNetworkGetAutostart" [read] { net: RemoteNetwork }
        -> NetworkGetAutostartReply { autostart: i32 };
    45 NetworkGetBridgeName "virNetworkGetBridgeName" [read] { net: RemoteNetwork }
        -> NetworkGetBridgeNameReply { name: String };
    46 NetworkLookupByName "virNetworkLookupByName" [read] { name: String }
        -> NetworkLookupByNameReply { net: RemoteNetwork };
    47 NetworkLookupByUuid "virNetworkLookupByUUID" [read] { uuid: Uuid }
        -> NetworkLookupByUuidReply { net: RemoteNetwork };
    48 NetworkSetAutostart "virNetworkSetAutostart" [write] { net: RemoteNetwork, autostart: i32 } -> ();
    49 NetworkUndefine "virNetworkUndefine" [write] { net: RemoteNetwork } -> ();
    50 ConnectNumOfDefinedNetworks "virConnectNumOfDefinedNetworks" [read] {}
        -> ConnectNumOfDefinedNetworksReply { num: i32 };
    51 ConnectNumOfDomains "virConnectNumOfDomains" [read] {} -> ConnectNumOfDomainsReply { num: i32 };
    52 ConnectNumOfNetworks "virConnectNumOfNetworks" [read] {} -> ConnectNumOfNetworksReply { num: i32 };
    53 DomainCoreDump "virDomainCoreDump" [write] { dom: RemoteDomain, to: String, flags: u32 } -> ();
    54 DomainRestore "virDomainRestore" [write] { from: String } -> ();
    55 DomainSave "virDomainSave" [write] { dom: RemoteDomain, to: String } -> ();
    56 DomainGetSchedulerType "virDomainGetSchedulerType" [read] { dom: RemoteDomain }
        -> DomainGetSchedulerTypeReply { kind: String, nparams: i32 };
    57 DomainGetSchedulerParameters "virDomainGetSchedulerParameters" [read] {
        dom: RemoteDomain, nparams: i32,
    }
        -> DomainGetSchedulerParametersReply { params: Vec<TypedParam> [DOMAIN_SCHEDULER_PARAMETERS_MAX] };
    58 DomainSetSchedulerParameters "virDomainSetSchedulerParameters" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_SCHEDULER_PARAMETERS_MAX],
    } -> ();
    59 ConnectGetHostname "virConnectGetHostname" [read] {} -> ConnectGetHostnameReply { hostname: String };
    60 ConnectSupportsFeature "virConnectSupportsFeature" [read] { feature: i32 }
        -> ConnectSupportsFeatureReply { supported: i32 };
    64 DomainBlockStats "virDomainBlockStats" [read] { dom: RemoteDomain, path: String }
        -> DomainBlockStatsReply { rd_req: i64, rd_bytes: i64, wr_req: i64, wr_bytes: i64, errs: i64 };
    65 DomainInterfaceStats "virDomainInterfaceStats" [read] { dom: RemoteDomain, device: String }
        -> DomainInterfaceStatsReply {
            rx_bytes: i64, rx_packets: i64, rx_errs: i64, rx_drop: i64, tx_bytes: i64, tx_packets: i64,
            tx_errs: i64, tx_drop: i64,
        };
    66 AuthList "authList" [read] {} -> AuthListReply { types: Vec<i32> [AUTH_TYPE_LIST_MAX] };
    71 ConnectNumOfStoragePools "virConnectNumOfStoragePools" [read] {}
        -> ConnectNumOfStoragePoolsReply { num: i32 };
    72 ConnectListStoragePools "virConnectListStoragePools" [read] { maxnames: i32 }
        -> ConnectListStoragePoolsReply { names: Vec<String> [STORAGE_POOL_LIST_MAX] };
    73 ConnectNumOfDefinedStoragePools "virConnectNumOfDefinedStoragePools" [read] {}
        -> ConnectNumOfDefinedStoragePoolsReply { num: i32 };
    74 ConnectListDefinedStoragePools "virConnectListDefinedStoragePools" [read] { maxnames: i32 }
        -> ConnectListDefinedStoragePoolsReply { names: Vec<String> [STORAGE_POOL_LIST_MAX] };
    75 ConnectFindStoragePoolSources "virConnectFindStoragePoolSources" [write] {
        kind: String, src_spec: Option<String>, flags: u32,
    }
        -> ConnectFindStoragePoolSourcesReply { xml: String };
    76 StoragePoolCreateXml "virStoragePoolCreateXML" [write] { xml: String, flags: u32 }
        -> StoragePoolCreateXmlReply { pool: RemoteStoragePool };
    77 StoragePoolDefineXml "virStoragePoolDefineXML" [write] { xml: String, flags: u32 }
        -> StoragePoolDefineXmlReply { pool: RemoteStoragePool };
    78 StoragePoolCreate "virStoragePoolCreate" [write] { pool: RemoteStoragePool, flags: u32 } -> ();
    79 StoragePoolBuild "virStoragePoolBuild" [write] { pool: RemoteStoragePool, flags: u32 } -> ();
    80 StoragePoolDestroy "virStoragePoolDestroy" [write] { pool: RemoteStoragePool } -> ();
    81 StoragePoolDelete "virStoragePoolDelete" [write] { pool: RemoteStoragePool, flags: u32 } -> ();
    82 StoragePoolUndefine "virStoragePoolUndefine" [write] { pool: RemoteStoragePool } -> ();
    83 StoragePoolRefresh "virStoragePoolRefresh" [write] { pool: RemoteStoragePool, flags: u32 } -> ();
    84 StoragePoolLookupByName "virStoragePoolLookupByName" [read] { name: String }
        -> StoragePoolLookupByNameReply { pool: RemoteStoragePool };
    85 StoragePoolLookupByUuid "virStoragePoolLookupByUUID" [read] { uuid: Uuid }
        -> StoragePoolLookupByUuidReply { pool: RemoteStoragePool };
    86 StoragePoolLookupByVolume "virStoragePoolLookupByVolume" [read] { vol: RemoteStorageVol }
        -> StoragePoolLookupByVolumeReply { pool: RemoteStoragePool };
    87 StoragePoolGetInfo "virStoragePoolGetInfo" [read] { pool: RemoteStoragePool }
        -> StoragePoolGetInfoReply { state: u8, capacity: u64, allocation: u64, available: u64 };
    88 StoragePoolGetXmlDesc "virStoragePoolGetXMLDesc" [read] { pool: RemoteStoragePool, flags: u32 }
        -> StoragePoolGetXmlDescReply { xml: String };
    89 StoragePoolGetAutostart "virStoragePoolGetAutostart" [read] { pool: RemoteStoragePool }
        -> StoragePoolGetAutostartReply { autostart: i32 };
    90 StoragePoolSetAutostart "virStoragePoolSetAutostart" [write] {
        pool: RemoteStoragePool, autostart: i32,
    } -> ();
    91 StoragePoolNumOfVolumes "virStoragePoolNumOfVolumes" [read] { pool: RemoteStoragePool }
        -> StoragePoolNumOfVolumesReply { num: i32 };
    92 StoragePoolListVolumes "virStoragePoolListVolumes" [read] { pool: RemoteStoragePool, maxnames: i32 }
        -> StoragePoolListVolumesReply { names: Vec<String> [STORAGE_VOL_LIST_MAX] };
    93 StorageVolCreateXml "virStorageVolCreateXML" [write] {
        pool: RemoteStoragePool, xml: String, flags: u32,
    }
        -> StorageVolCreateXmlReply { vol: RemoteStorageVol };
    94 StorageVolDelete "virStorageVolDelete" [write] { vol: RemoteStorageVol, flags: u32 } -> ();
    95 StorageVolLookupByName "virStorageVolLookupByName" [read] { pool: RemoteStoragePool, name: String }
        -> StorageVolLookupByNameReply { vol: RemoteStorageVol };
    96 StorageVolLookupByKey "virStorageVolLookupByKey" [read] { key: String }
        -> StorageVolLookupByKeyReply { vol: RemoteStorageVol };
    97 StorageVolLookupByPath "virStorageVolLookupByPath" [read] { path: String }
        -> StorageVolLookupByPathReply { vol: RemoteStorageVol };
    98 StorageVolGetInfo "virStorageVolGetInfo" [read] { vol: RemoteStorageVol }
        -> StorageVolGetInfoReply { kind: i8, capacity: u64, allocation: u64 };
    99 StorageVolGetXmlDesc "virStorageVolGetXMLDesc" [read] { vol: RemoteStorageVol, flags: u32 }
        -> StorageVolGetXmlDescReply { xml: String };
    100 StorageVolGetPath "virStorageVolGetPath" [read] { vol: RemoteStorageVol }
        -> StorageVolGetPathReply { name: String };
    101 NodeGetCellsFreeMemory "virNodeGetCellsFreeMemory" [read] { start_cell: i32, maxcells: i32 }
        -> NodeGetCellsFreeMemoryReply { cells: Vec<u64> [NODE_MAX_CELLS] };
    102 NodeGetFreeMemory "virNodeGetFreeMemory" [read] {} -> NodeGetFreeMemoryReply { free_mem: u64 };
    103 DomainBlockPeek "virDomainBlockPeek" [write] {
        dom: RemoteDomain, path: String, offset: u64, size: u32, flags: u32,
    }
        -> DomainBlockPeekReply { buffer: Opaque [DOMAIN_BLOCK_PEEK_BUFFER_MAX] };
    104 DomainMemoryPeek "virDomainMemoryPeek" [write] {
        dom: RemoteDomain, offset: u64, size: u32, flags: u32,
    }
        -> DomainMemoryPeekReply { buffer: Opaque [DOMAIN_MEMORY_PEEK_BUFFER_MAX] };
    110 ConnectGetUri "virConnectGetURI" [read] {} -> ConnectGetUriReply { uri: String };
    121 DomainGetSecurityLabel "virDomainGetSecurityLabel" [read] { dom: RemoteDomain }
        -> DomainGetSecurityLabelReply { label: Vec<i8> [SECURITY_LABEL_MAX], enforcing: i32 };
    122 NodeGetSecurityModel "virNodeGetSecurityModel" [read] {}
        -> NodeGetSecurityModelReply { model: Vec<i8> [SECURITY_MODEL_MAX], doi: Vec<i8> [SECURITY_DOI_MAX] };
    125 StorageVolCreateXmlFrom "virStorageVolCreateXMLFrom" [write] {
        pool: RemoteStoragePool, xml: String, clonevol: RemoteStorageVol, flags: u32,
    }
        -> StorageVolCreateXmlFromReply { vol: RemoteStorageVol };
    126 ConnectNumOfInterfaces "virConnectNumOfInterfaces" [read] {}
        -> ConnectNumOfInterfacesReply { num: i32 };
    127 ConnectListInterfaces "virConnectListInterfaces" [read] { maxnames: i32 }
        -> ConnectListInterfacesReply { names: Vec<String> [INTERFACE_LIST_MAX] };
    136 ConnectDomainXmlToNative "virConnectDomainXMLToNative" [write] {
        native_format: String, domain_xml: String, flags: u32,
    }
        -> ConnectDomainXmlToNativeReply { native_config: String };
    139 ConnectNumOfSecrets "virConnectNumOfSecrets" [read] {} -> ConnectNumOfSecretsReply { num: i32 };
    149 ConnectIsSecure "virConnectIsSecure" [read] {} -> ConnectIsSecureReply { secure: i32 };
    150 DomainIsActive "virDomainIsActive" [read] { dom: RemoteDomain }
        -> DomainIsActiveReply { active: i32 };
    151 DomainIsPersistent "virDomainIsPersistent" [read] { dom: RemoteDomain }
        -> DomainIsPersistentReply { persistent: i32 };
    152 NetworkIsActive "virNetworkIsActive" [read] { net: RemoteNetwork }
        -> NetworkIsActiveReply { active: i32 };
    153 NetworkIsPersistent "virNetworkIsPersistent" [read] { net: RemoteNetwork }
        -> NetworkIsPersistentReply { persistent: i32 };
    154 StoragePoolIsActive "virStoragePoolIsActive" [read] { pool: RemoteStoragePool }
        -> StoragePoolIsActiveReply { active: i32 };
    155 StoragePoolIsPersistent "virStoragePoolIsPersistent" [read] { pool: RemoteStoragePool }
        -> StoragePoolIsPersistentReply { persistent: i32 };
    157 ConnectGetLibVersion "virConnectGetLibVersion" [read] {}
        -> ConnectGetLibVersionReply { lib_ver: u64 };
    158 ConnectCompareCpu "virConnectCompareCPU" [read] { xml: String, flags: u32 }
        -> ConnectCompareCpuReply { result: i32 };
    159 DomainMemoryStats "virDomainMemoryStats" [read] { dom: RemoteDomain, max_stats: u32, flags: u32 }
        -> DomainMemoryStatsReply { stats: Vec<DomainMemoryStat> [DOMAIN_MEMORY_STATS_MAX] };
    160 DomainAttachDeviceFlags "virDomainAttachDeviceFlags" [write] {
        dom: RemoteDomain, xml: String, flags: u32,
    } -> ();
    161 DomainDetachDeviceFlags "virDomainDetachDeviceFlags" [write] {
        dom: RemoteDomain, xml: String, flags: u32,
    } -> ();
    162 ConnectBaselineCpu "virConnectBaselineCPU" [read] {
        xml_cpus: Vec<String> [CPU_BASELINE_MAX], flags: u32,
    }
        -> ConnectBaselineCpuReply { cpu: String };
    163 DomainGetJobInfo "virDomainGetJobInfo" [read] { dom: RemoteDomain }
        -> DomainGetJobInfoReply {
            kind: i32, time_elapsed: u64, time_remaining: u64, data_total: u64, data_processed: u64,
            data_remaining: u64, mem_total: u64, mem_processed: u64, mem_remaining: u64, file_total: u64,
            file_processed: u64, file_remaining: u64,
        };
    164 DomainAbortJob "virDomainAbortJob" [write] { dom: RemoteDomain } -> ();
    165 StorageVolWipe "virStorageVolWipe" [write] { vol: RemoteStorageVol, flags: u32 } -> ();
    174 DomainUpdateDeviceFlags "virDomainUpdateDeviceFlags" [write] {
        dom: RemoteDomain, xml: String, flags: u32,
    } -> ();
    178 ConnectNumOfNwFilters "virConnectNumOfNWFilters" [read] {} -> ConnectNumOfNwFiltersReply { num: i32 };
    179 ConnectListNwFilters "virConnectListNWFilters" [read] { maxnames: i32 }
        -> ConnectListNwFiltersReply { names: Vec<String> [NWFILTER_LIST_MAX] };
    182 DomainManagedSave "virDomainManagedSave" [write] { dom: RemoteDomain, flags: u32 } -> ();
    183 DomainHasManagedSaveImage "virDomainHasManagedSaveImage" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainHasManagedSaveImageReply { result: i32 };
    184 DomainManagedSaveRemove "virDomainManagedSaveRemove" [write] { dom: RemoteDomain, flags: u32 } -> ();
    185 DomainSnapshotCreateXml "virDomainSnapshotCreateXML" [write] {
        dom: RemoteDomain, xml_desc: String, flags: u32,
    }
        -> DomainSnapshotCreateXmlReply { snap: RemoteDomainSnapshot };
    186 DomainSnapshotGetXmlDesc "virDomainSnapshotGetXMLDesc" [read if flags & 1 == 0] {
        snap: RemoteDomainSnapshot, flags: u32,
    }
        -> DomainSnapshotGetXmlDescReply { xml: String };
    187 DomainSnapshotNum "virDomainSnapshotNum" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainSnapshotNumReply { num: i32 };
    188 DomainSnapshotListNames "virDomainSnapshotListNames" [read] {
        dom: RemoteDomain, maxnames: i32, flags: u32,
    }
        -> DomainSnapshotListNamesReply { names: Vec<String> [DOMAIN_SNAPSHOT_LIST_MAX] };
    189 DomainSnapshotLookupByName "virDomainSnapshotLookupByName" [read] {
        dom: RemoteDomain, name: String, flags: u32,
    }
        -> DomainSnapshotLookupByNameReply { snap: RemoteDomainSnapshot };
    190 DomainHasCurrentSnapshot "virDomainHasCurrentSnapshot" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainHasCurrentSnapshotReply { result: i32 };
    191 DomainSnapshotCurrent "virDomainSnapshotCurrent" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainSnapshotCurrentReply { snap: RemoteDomainSnapshot };
    192 DomainRevertToSnapshot "virDomainRevertToSnapshot" [write] {
        snap: RemoteDomainSnapshot, flags: u32,
    } -> ();
    193 DomainSnapshotDelete "virDomainSnapshotDelete" [write] {
        snap: RemoteDomainSnapshot, flags: u32,
    } -> ();
    194 DomainGetBlockInfo "virDomainGetBlockInfo" [read] { dom: RemoteDomain, path: String, flags: u32 }
        -> DomainGetBlockInfoReply { allocation: u64, capacity: u64, physical: u64 };
    196 DomainCreateWithFlags "virDomainCreateWithFlags" [write] { dom: RemoteDomain, flags: u32 }
        -> DomainCreateWithFlagsReply { dom: RemoteDomain };
    197 DomainSetMemoryParameters "virDomainSetMemoryParameters" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_MEMORY_PARAMETERS_MAX], flags: u32,
    } -> ();
    198 DomainGetMemoryParameters "virDomainGetMemoryParameters" [read] {
        dom: RemoteDomain, nparams: i32, flags: u32,
    }
        -> DomainGetMemoryParametersReply {
            params: Vec<TypedParam> [DOMAIN_MEMORY_PARAMETERS_MAX], nparams: i32,
        };
    199 DomainSetVcpusFlags "virDomainSetVcpusFlags" [write] {
        dom: RemoteDomain, nvcpus: u32, flags: u32,
    } -> ();
    200 DomainGetVcpusFlags "virDomainGetVcpusFlags" [read if flags & 8 == 0] {
        dom: RemoteDomain, flags: u32,
    }
        -> DomainGetVcpusFlagsReply { num: i32 };
    201 DomainOpenConsole "virDomainOpenConsole" [write] {
        dom: RemoteDomain, dev_name: Option<String>, flags: u32,
    } -> ();
    202 DomainIsUpdated "virDomainIsUpdated" [read] { dom: RemoteDomain }
        -> DomainIsUpdatedReply { updated: i32 };
    203 ConnectGetSysInfo "virConnectGetSysinfo" [read] { flags: u32 }
        -> ConnectGetSysInfoReply { sysinfo: String };
    204 DomainSetMemoryFlags "virDomainSetMemoryFlags" [write] {
        dom: RemoteDomain, memory: u64, flags: u32,
    } -> ();
    205 DomainSetBlkioParameters "virDomainSetBlkioParameters" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_BLKIO_PARAMETERS_MAX], flags: u32,
    } -> ();
    206 DomainGetBlkioParameters "virDomainGetBlkioParameters" [read] {
        dom: RemoteDomain, nparams: i32, flags: u32,
    }
        -> DomainGetBlkioParametersReply {
            params: Vec<TypedParam> [DOMAIN_BLKIO_PARAMETERS_MAX], nparams: i32,
        };
    208 StorageVolUpload "virStorageVolUpload" [write] {
        vol: RemoteStorageVol, offset: u64, length: u64, flags: u32,
    } -> ();
    209 StorageVolDownload "virStorageVolDownload" [write] {
        vol: RemoteStorageVol, offset: u64, length: u64, flags: u32,
    } -> ();
    210 DomainInjectNmi "virDomainInjectNMI" [write] { dom: RemoteDomain, flags: u32 } -> ();
    211 DomainScreenshot "virDomainScreenshot" [write] { dom: RemoteDomain, screen: u32, flags: u32 }
        -> DomainScreenshotReply { mime: Option<String> };
    212 DomainGetState "virDomainGetState" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetStateReply { state: i32, reason: i32 };
    219 DomainSetSchedulerParametersFlags "virDomainSetSchedulerParametersFlags" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_SCHEDULER_PARAMETERS_MAX], flags: u32,
    } -> ();
    223 DomainGetSchedulerParametersFlags "virDomainGetSchedulerParametersFlags" [read] {
        dom: RemoteDomain, nparams: i32, flags: u32,
    }
        -> DomainGetSchedulerParametersFlagsReply {
            params: Vec<TypedParam> [DOMAIN_SCHEDULER_PARAMETERS_MAX],
        };
    225 DomainPinVcpuFlags "virDomainPinVcpuFlags" [write] {
        dom: RemoteDomain, vcpu: u32, cpumap: Opaque [CPUMAP_MAX], flags: u32,
    } -> ();
    226 DomainSendKey "virDomainSendKey" [write] {
        dom: RemoteDomain, codeset: u32, holdtime: u32, keycodes: Vec<u32> [DOMAIN_SEND_KEY_MAX], flags: u32,
    } -> ();
    227 NodeGetCpuStats "virNodeGetCPUStats" [read] { cpu_num: i32, nparams: i32, flags: u32 }
        -> NodeGetCpuStatsReply { params: Vec<NodeCpuStatistic> [NODE_CPU_STATS_MAX], nparams: i32 };
    228 NodeGetMemoryStats "virNodeGetMemoryStats" [read] { nparams: i32, cell_num: i32, flags: u32 }
        -> NodeGetMemoryStatsReply { params: Vec<NodeMemoryStatistic> [NODE_MEMORY_STATS_MAX], nparams: i32 };
    229 DomainGetControlInfo "virDomainGetControlInfo" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetControlInfoReply { state: u32, details: u32, state_time: u64 };
    230 DomainGetVcpuPinInfo "virDomainGetVcpuPinInfo" [read] {
        dom: RemoteDomain, ncpumaps: i32, maplen: i32, flags: u32,
    }
        -> DomainGetVcpuPinInfoReply { cpumaps: Opaque [CPUMAPS_MAX], num: i32 };
    231 DomainUndefineFlags "virDomainUndefineFlags" [write] { dom: RemoteDomain, flags: u32 } -> ();
    232 DomainSaveFlags "virDomainSaveFlags" [write] {
        dom: RemoteDomain, to: String, dxml: Option<String>, flags: u32,
    } -> ();
    233 DomainRestoreFlags "virDomainRestoreFlags" [write] {
        from: String, dxml: Option<String>, flags: u32,
    } -> ();
    234 DomainDestroyFlags "virDomainDestroyFlags" [write] { dom: RemoteDomain, flags: u32 } -> ();
    235 DomainSaveImageGetXmlDesc "virDomainSaveImageGetXMLDesc" [write] { file: String, flags: u32 }
        -> DomainSaveImageGetXmlDescReply { xml: String };
    236 DomainSaveImageDefineXml "virDomainSaveImageDefineXML" [write] {
        file: String, dxml: String, flags: u32,
    } -> ();
    237 DomainBlockJobAbort "virDomainBlockJobAbort" [write] {
        dom: RemoteDomain, path: String, flags: u32,
    } -> ();
    238 DomainGetBlockJobInfo "virDomainGetBlockJobInfo" [read] {
        dom: RemoteDomain, path: String, flags: u32,
    }
        -> DomainGetBlockJobInfoReply { found: i32, kind: i32, bandwidth: u64, cur: u64, end: u64 };
    240 DomainBlockPull "virDomainBlockPull" [write] {
        dom: RemoteDomain, path: String, bandwidth: u64, flags: u32,
    } -> ();
    243 DomainBlockStatsFlags "virDomainBlockStatsFlags" [read] {
        dom: RemoteDomain, path: String, nparams: i32, flags: u32,
    }
        -> DomainBlockStatsFlagsReply {
            params: Vec<TypedParam> [DOMAIN_BLOCK_STATS_PARAMETERS_MAX], nparams: i32,
        };
    244 DomainSnapshotGetParent "virDomainSnapshotGetParent" [read] { snap: RemoteDomainSnapshot, flags: u32 }
        -> DomainSnapshotGetParentReply { snap: RemoteDomainSnapshot };
    245 DomainReset "virDomainReset" [write] { dom: RemoteDomain, flags: u32 } -> ();
    246 DomainSnapshotNumChildren "virDomainSnapshotNumChildren" [read] {
        snap: RemoteDomainSnapshot, flags: u32,
    }
        -> DomainSnapshotNumChildrenReply { num: i32 };
    251 DomainBlockResize "virDomainBlockResize" [write] {
        dom: RemoteDomain, disk: String, size: u64, flags: u32,
    } -> ();
    252 DomainSetBlockIoTune "virDomainSetBlockIoTune" [write] {
        dom: RemoteDomain, disk: String, params: Vec<TypedParam> [DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX],
        flags: u32,
    } -> ();
    253 DomainGetBlockIoTune "virDomainGetBlockIoTune" [read] {
        dom: RemoteDomain, disk: Option<String>, nparams: i32, flags: u32,
    }
        -> DomainGetBlockIoTuneReply {
            params: Vec<TypedParam> [DOMAIN_BLOCK_IO_TUNE_PARAMETERS_MAX], nparams: i32,
        };
    254 DomainSetNumaParameters "virDomainSetNumaParameters" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_NUMA_PARAMETERS_MAX], flags: u32,
    } -> ();
    255 DomainGetNumaParameters "virDomainGetNumaParameters" [read] {
        dom: RemoteDomain, nparams: i32, flags: u32,
    }
        -> DomainGetNumaParametersReply {
            params: Vec<TypedParam> [DOMAIN_NUMA_PARAMETERS_MAX], nparams: i32,
        };
    256 DomainSetInterfaceParameters "virDomainSetInterfaceParameters" [write] {
        dom: RemoteDomain, device: String, params: Vec<TypedParam> [DOMAIN_INTERFACE_PARAMETERS_MAX],
        flags: u32,
    } -> ();
    257 DomainGetInterfaceParameters "virDomainGetInterfaceParameters" [read] {
        dom: RemoteDomain, device: String, nparams: i32, flags: u32,
    }
        -> DomainGetInterfaceParametersReply {
            params: Vec<TypedParam> [DOMAIN_INTERFACE_PARAMETERS_MAX], nparams: i32,
        };
    258 DomainShutdownFlags "virDomainShutdownFlags" [write] { dom: RemoteDomain, flags: u32 } -> ();
    259 StorageVolWipePattern "virStorageVolWipePattern" [write] {
        vol: RemoteStorageVol, algorithm: u32, flags: u32,
    } -> ();
    260 StorageVolResize "virStorageVolResize" [write] {
        vol: RemoteStorageVol, capacity: u64, flags: u32,
    } -> ();
    261 DomainPmSuspendForDuration "virDomainPMSuspendForDuration" [write] {
        dom: RemoteDomain, target: u32, duration: u64, flags: u32,
    } -> ();
    262 DomainGetCpuStats "virDomainGetCPUStats" [read] {
        dom: RemoteDomain, nparams: u32, start_cpu: i32, ncpus: u32, flags: u32,
    }
        -> DomainGetCpuStatsReply { params: Vec<TypedParam> [DOMAIN_GET_CPU_STATS_MAX], nparams: i32 };
    263 DomainGetDiskErrors "virDomainGetDiskErrors" [read] { dom: RemoteDomain, maxerrors: u32, flags: u32 }
        -> DomainGetDiskErrorsReply { errors: Vec<DomainDiskError> [DOMAIN_DISK_ERRORS_MAX], nerrors: i32 };
    264 DomainSetMetadata "virDomainSetMetadata" [write] {
        dom: RemoteDomain, kind: i32, metadata: Option<String>, key: Option<String>, uri: Option<String>,
        flags: u32,
    } -> ();
    265 DomainGetMetadata "virDomainGetMetadata" [read] {
        dom: RemoteDomain, kind: i32, uri: Option<String>, flags: u32,
    }
        -> DomainGetMetadataReply { metadata: String };
    266 DomainBlockRebase "virDomainBlockRebase" [write] {
        dom: RemoteDomain, path: String, base: Option<String>, bandwidth: u64, flags: u32,
    } -> ();
    267 DomainPmWakeup "virDomainPMWakeup" [write] { dom: RemoteDomain, flags: u32 } -> ();
    271 DomainSnapshotIsCurrent "virDomainSnapshotIsCurrent" [read] { snap: RemoteDomainSnapshot, flags: u32 }
        -> DomainSnapshotIsCurrentReply { current: i32 };
    272 DomainSnapshotHasMetadata "virDomainSnapshotHasMetadata" [read] {
        snap: RemoteDomainSnapshot, flags: u32,
    }
        -> DomainSnapshotHasMetadataReply { metadata: i32 };
    273 ConnectListAllDomains "virConnectListAllDomains" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllDomainsReply { domains: Vec<RemoteDomain> [DOMAIN_LIST_MAX], ret: u32 };
    274 DomainListAllSnapshots "virDomainListAllSnapshots" [read] {
        dom: RemoteDomain, need_results: i32, flags: u32,
    }
        -> DomainListAllSnapshotsReply {
            snapshots: Vec<RemoteDomainSnapshot> [DOMAIN_SNAPSHOT_LIST_MAX], ret: i32,
        };
    275 DomainSnapshotListAllChildren "virDomainSnapshotListAllChildren" [read] {
        snapshot: RemoteDomainSnapshot, need_results: i32, flags: u32,
    }
        -> DomainSnapshotListAllChildrenReply {
            snapshots: Vec<RemoteDomainSnapshot> [DOMAIN_SNAPSHOT_LIST_MAX], ret: i32,
        };
    277 DomainGetHostname "virDomainGetHostname" [write] { dom: RemoteDomain, flags: u32 }
        -> DomainGetHostnameReply { hostname: String };
    278 DomainGetSecurityLabelList "virDomainGetSecurityLabelList" [read] { dom: RemoteDomain }
        -> DomainGetSecurityLabelListReply {
            labels: Vec<DomainSecurityLabel> [SECURITY_LABEL_LIST_MAX], ret: i32,
        };
    279 DomainPinEmulator "virDomainPinEmulator" [write] {
        dom: RemoteDomain, cpumap: Opaque [CPUMAP_MAX], flags: u32,
    } -> ();
    280 DomainGetEmulatorPinInfo "virDomainGetEmulatorPinInfo" [read] {
        dom: RemoteDomain, maplen: i32, flags: u32,
    }
        -> DomainGetEmulatorPinInfoReply { cpumaps: Opaque [CPUMAPS_MAX], ret: i32 };
    281 ConnectListAllStoragePools "virConnectListAllStoragePools" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllStoragePoolsReply {
            pools: Vec<RemoteStoragePool> [STORAGE_POOL_LIST_MAX], ret: u32,
        };
    282 StoragePoolListAllVolumes "virStoragePoolListAllVolumes" [read] {
        pool: RemoteStoragePool, need_results: i32, flags: u32,
    }
        -> StoragePoolListAllVolumesReply { vols: Vec<RemoteStorageVol> [STORAGE_VOL_LIST_MAX], ret: u32 };
    283 ConnectListAllNetworks "virConnectListAllNetworks" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllNetworksReply { nets: Vec<RemoteNetwork> [NETWORK_LIST_MAX], ret: u32 };
    284 ConnectListAllInterfaces "virConnectListAllInterfaces" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllInterfacesReply { ifaces: Vec<RemoteInterface> [INTERFACE_LIST_MAX], ret: u32 };
    285 ConnectListAllNodeDevices "virConnectListAllNodeDevices" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllNodeDevicesReply { devices: Vec<RemoteNodeDevice> [NODE_DEVICE_LIST_MAX], ret: u32 };
    286 ConnectListAllNwFilters "virConnectListAllNWFilters" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllNwFiltersReply { filters: Vec<RemoteNwFilter> [NWFILTER_LIST_MAX], ret: u32 };
    287 ConnectListAllSecrets "virConnectListAllSecrets" [read] { need_results: i32, flags: u32 }
        -> ConnectListAllSecretsReply { secrets: Vec<RemoteSecret> [SECRET_LIST_MAX], ret: u32 };
    289 NodeGetMemoryParameters "virNodeGetMemoryParameters" [read] { nparams: i32, flags: u32 }
        -> NodeGetMemoryParametersReply {
            params: Vec<TypedParam> [NODE_MEMORY_PARAMETERS_MAX], nparams: i32,
        };
    290 DomainBlockCommit "virDomainBlockCommit" [write] {
        dom: RemoteDomain, disk: String, base: Option<String>, top: Option<String>, bandwidth: u64,
        flags: u32,
    } -> ();
    291 NetworkUpdate "virNetworkUpdate" [write] {
        net: RemoteNetwork, command: u32, section: u32, parent_index: i32, xml: String, flags: u32,
    } -> ();
    293 NodeGetCpuMap "virNodeGetCPUMap" [read] { need_map: i32, need_online: i32, flags: u32 }
        -> NodeGetCpuMapReply { cpumap: Opaque [CPUMAP_MAX], online: u32, ret: i32 };
    294 DomainFsTrim "virDomainFSTrim" [write] {
        dom: RemoteDomain, mount_point: Option<String>, minimum: u64, flags: u32,
    } -> ();
    296 DomainOpenChannel "virDomainOpenChannel" [write] {
        dom: RemoteDomain, name: Option<String>, flags: u32,
    } -> ();
    298 DomainGetJobStats "virDomainGetJobStats" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetJobStatsReply { kind: i32, params: Vec<TypedParam> [DOMAIN_JOB_STATS_MAX] };
    308 DomainSetMemoryStatsPeriod "virDomainSetMemoryStatsPeriod" [write] {
        dom: RemoteDomain, period: i32, flags: u32,
    } -> ();
    312 ConnectGetCpuModelNames "virConnectGetCPUModelNames" [read] {
        arch: String, need_results: i32, flags: u32,
    }
        -> ConnectGetCpuModelNamesReply { models: Vec<String> [CONNECT_CPU_MODELS_MAX], ret: i32 };
    313 ConnectNetworkEventRegisterAny "virConnectNetworkEventRegisterAny" [read] {
        event_id: i32, net: Option<RemoteNetwork>,
    }
        -> ConnectNetworkEventRegisterAnyReply { callback_id: i32 };
    314 ConnectNetworkEventDeregisterAny "virConnectNetworkEventDeregisterAny" [read] {
        callback_id: i32,
    } -> ();
    316 ConnectDomainEventCallbackRegisterAny "virConnectDomainEventRegisterAny" [read] {
        event_id: i32, dom: Option<RemoteDomain>,
    }
        -> ConnectDomainEventCallbackRegisterAnyReply { callback_id: i32 };
    317 ConnectDomainEventCallbackDeregisterAny "virConnectDomainEventDeregisterAny" [read] {
        callback_id: i32,
    } -> ();
    334 DomainCoreDumpWithFormat "virDomainCoreDumpWithFormat" [write] {
        dom: RemoteDomain, to: String, dumpformat: u32, flags: u32,
    } -> ();
    335 DomainFsFreeze "virDomainFSFreeze" [write] {
        dom: RemoteDomain, mountpoints: Vec<String> [DOMAIN_FSFREEZE_MOUNTPOINTS_MAX], flags: u32,
    }
        -> DomainFsFreezeReply { filesystems: i32 };
    336 DomainFsThaw "virDomainFSThaw" [write] {
        dom: RemoteDomain, mountpoints: Vec<String> [DOMAIN_FSFREEZE_MOUNTPOINTS_MAX], flags: u32,
    }
        -> DomainFsThawReply { filesystems: i32 };
    337 DomainGetTime "virDomainGetTime" [write] { dom: RemoteDomain, flags: u32 }
        -> DomainGetTimeReply { seconds: i64, nseconds: u32 };
    338 DomainSetTime "virDomainSetTime" [write] {
        dom: RemoteDomain, seconds: i64, nseconds: u32, flags: u32,
    } -> ();
    340 NodeGetFreePages "virNodeGetFreePages" [read] {
        pages: Vec<u32> [NODE_MAX_CELLS], start_cell: i32, cell_count: u32, flags: u32,
    }
        -> NodeGetFreePagesReply { counts: Vec<u64> [NODE_MAX_CELLS] };
    341 NetworkGetDhcpLeases "virNetworkGetDHCPLeases" [read] {
        net: RemoteNetwork, mac: Option<String>, need_results: i32, flags: u32,
    }
        -> NetworkGetDhcpLeasesReply { leases: Vec<NetworkDhcpLease> [NETWORK_DHCP_LEASES_MAX], ret: u32 };
    342 ConnectGetDomainCapabilities "virConnectGetDomainCapabilities" [write] {
        emulatorbin: Option<String>, arch: Option<String>, machine: Option<String>, virttype: Option<String>,
        flags: u32,
    }
        -> ConnectGetDomainCapabilitiesReply { capabilities: String };
    344 ConnectGetAllDomainStats "virConnectGetAllDomainStats" [read] {
        doms: Vec<RemoteDomain> [DOMAIN_LIST_MAX], stats: u32, flags: u32,
    }
        -> ConnectGetAllDomainStatsReply { ret_stats: Vec<DomainStatsRecord> [DOMAIN_LIST_MAX] };
    345 DomainBlockCopy "virDomainBlockCopy" [write] {
        dom: RemoteDomain, path: String, destxml: String,
        params: Vec<TypedParam> [DOMAIN_BLOCK_COPY_PARAMETERS_MAX], flags: u32,
    } -> ();
    347 NodeAllocPages "virNodeAllocPages" [write] {
        page_sizes: Vec<u32> [NODE_MAX_CELLS], page_counts: Vec<u64> [NODE_MAX_CELLS], start_cell: i32,
        cell_count: u32, flags: u32,
    }
        -> NodeAllocPagesReply { ret: i32 };
    349 DomainGetFsInfo "virDomainGetFSInfo" [write] { dom: RemoteDomain, flags: u32 }
        -> DomainGetFsInfoReply { info: Vec<DomainFsInfo> [DOMAIN_FSINFO_MAX], ret: u32 };
    350 DomainDefineXmlFlags "virDomainDefineXMLFlags" [write] { xml: String, flags: u32 }
        -> DomainDefineXmlFlagsReply { dom: RemoteDomain };
    351 DomainGetIoThreadInfo "virDomainGetIOThreadInfo" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetIoThreadInfoReply { info: Vec<DomainIoThreadInfo> [IOTHREAD_INFO_MAX], ret: u32 };
    352 DomainPinIoThread "virDomainPinIOThread" [write] {
        dom: RemoteDomain, iothreads_id: u32, cpumap: Opaque [CPUMAP_MAX], flags: u32,
    } -> ();
    353 DomainInterfaceAddresses "virDomainInterfaceAddresses" [read if source != 1] {
        dom: RemoteDomain, source: u32, flags: u32,
    }
        -> DomainInterfaceAddressesReply { ifaces: Vec<DomainInterface> [DOMAIN_INTERFACE_MAX] };
    355 DomainAddIoThread "virDomainAddIOThread" [write] {
        dom: RemoteDomain, io_thread_id: u32, flags: u32,
    } -> ();
    356 DomainDelIoThread "virDomainDelIOThread" [write] {
        dom: RemoteDomain, io_thread_id: u32, flags: u32,
    } -> ();
    357 DomainSetUserPassword "virDomainSetUserPassword" [write] {
        dom: RemoteDomain, user: Option<String>, password: Option<String>, flags: u32,
    } -> ();
    358 DomainRename "virDomainRename" [write] { dom: RemoteDomain, new_name: Option<String>, flags: u32 }
        -> DomainRenameReply { retcode: i32 };
    360 ConnectRegisterCloseCallback "virConnectRegisterCloseCallback" [read] {} -> ();
    361 ConnectUnregisterCloseCallback "virConnectUnregisterCloseCallback" [read] {} -> ();
    368 ConnectStoragePoolEventRegisterAny "virConnectStoragePoolEventRegisterAny" [read] {
        event_id: i32, pool: Option<RemoteStoragePool>,
    }
        -> ConnectStoragePoolEventRegisterAnyReply { callback_id: i32 };
    369 ConnectStoragePoolEventDeregisterAny "virConnectStoragePoolEventDeregisterAny" [read] {
        callback_id: i32,
    } -> ();
    371 DomainGetGuestVcpus "virDomainGetGuestVcpus" [write] { dom: RemoteDomain, flags: u32 }
        -> DomainGetGuestVcpusReply { params: Vec<TypedParam> [DOMAIN_GUEST_VCPU_PARAMS_MAX] };
    372 DomainSetGuestVcpus "virDomainSetGuestVcpus" [write] {
        dom: RemoteDomain, cpumap: String, state: i32, flags: u32,
    } -> ();
    374 ConnectNodeDeviceEventRegisterAny "virConnectNodeDeviceEventRegisterAny" [read] {
        event_id: i32, dev: Option<RemoteNodeDevice>,
    }
        -> ConnectNodeDeviceEventRegisterAnyReply { callback_id: i32 };
    375 ConnectNodeDeviceEventDeregisterAny "virConnectNodeDeviceEventDeregisterAny" [read] {
        callback_id: i32,
    } -> ();
    378 StorageVolGetInfoFlags "virStorageVolGetInfoFlags" [read] { vol: RemoteStorageVol, flags: u32 }
        -> StorageVolGetInfoFlagsReply { kind: i8, capacity: u64, allocation: u64 };
    380 ConnectSecretEventRegisterAny "virConnectSecretEventRegisterAny" [read] {
        event_id: i32, secret: Option<RemoteSecret>,
    }
        -> ConnectSecretEventRegisterAnyReply { callback_id: i32 };
    381 ConnectSecretEventDeregisterAny "virConnectSecretEventDeregisterAny" [read] {
        callback_id: i32,
    } -> ();
    384 DomainSetVcpu "virDomainSetVcpu" [write] {
        dom: RemoteDomain, cpumap: String, state: i32, flags: u32,
    } -> ();
    386 DomainSetBlockThreshold "virDomainSetBlockThreshold" [write] {
        dom: RemoteDomain, dev: String, threshold: u64, flags: u32,
    } -> ();
    388 DomainManagedSaveGetXmlDesc "virDomainManagedSaveGetXMLDesc" [read if flags & 1 == 0] {
        dom: RemoteDomain, flags: u32,
    }
        -> DomainManagedSaveGetXmlDescReply { xml: String };
    389 DomainManagedSaveDefineXml "virDomainManagedSaveDefineXML" [write] {
        dom: RemoteDomain, dxml: Option<String>, flags: u32,
    } -> ();
    390 DomainSetLifecycleAction "virDomainSetLifecycleAction" [write] {
        dom: RemoteDomain, kind: u32, action: u32, flags: u32,
    } -> ();
    391 StoragePoolLookupByTargetPath "virStoragePoolLookupByTargetPath" [read] { path: String }
        -> StoragePoolLookupByTargetPathReply { pool: RemoteStoragePool };
    392 DomainDetachDeviceAlias "virDomainDetachDeviceAlias" [write] {
        dom: RemoteDomain, alias: String, flags: u32,
    } -> ();
    393 ConnectCompareHypervisorCpu "virConnectCompareHypervisorCPU" [write] {
        emulator: Option<String>, arch: Option<String>, machine: Option<String>, virttype: Option<String>,
        xml_cpu: String, flags: u32,
    }
        -> ConnectCompareHypervisorCpuReply { result: i32 };
    394 ConnectBaselineHypervisorCpu "virConnectBaselineHypervisorCPU" [write] {
        emulator: Option<String>, arch: Option<String>, machine: Option<String>, virttype: Option<String>,
        xml_cpus: Vec<String> [CPU_BASELINE_MAX], flags: u32,
    }
        -> ConnectBaselineHypervisorCpuReply { cpu: String };
    396 DomainGetLaunchSecurityInfo "virDomainGetLaunchSecurityInfo" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetLaunchSecurityInfoReply {
            params: Vec<TypedParam> [DOMAIN_LAUNCH_SECURITY_INFO_PARAMS_MAX],
        };
    401 ConnectListAllNwFilterBindings "virConnectListAllNWFilterBindings" [read] {
        need_results: i32, flags: u32,
    }
        -> ConnectListAllNwFilterBindingsReply {
            bindings: Vec<RemoteNwFilterBinding> [NWFILTER_BINDING_LIST_MAX], ret: u32,
        };
    402 DomainSetIoThreadParams "virDomainSetIOThreadParams" [write] {
        dom: RemoteDomain, io_thread_id: u32, params: Vec<TypedParam> [DOMAIN_IOTHREAD_PARAMS_MAX],
        flags: u32,
    } -> ();
    403 ConnectGetStoragePoolCapabilities "virConnectGetStoragePoolCapabilities" [read] { flags: u32 }
        -> ConnectGetStoragePoolCapabilitiesReply { capabilities: String };
    404 NetworkListAllPorts "virNetworkListAllPorts" [read] {
        network: RemoteNetwork, need_results: i32, flags: u32,
    }
        -> NetworkListAllPortsReply { ports: Vec<RemoteNetworkPort> [NETWORK_PORT_LIST_MAX], ret: u32 };
    405 NetworkPortLookupByUuid "virNetworkPortLookupByUUID" [read] { network: RemoteNetwork, uuid: Uuid }
        -> NetworkPortLookupByUuidReply { port: RemoteNetworkPort };
    406 NetworkPortCreateXml "virNetworkPortCreateXML" [write] {
        network: RemoteNetwork, xml: String, flags: u32,
    }
        -> NetworkPortCreateXmlReply { port: RemoteNetworkPort };
    407 NetworkPortGetParameters "virNetworkPortGetParameters" [read] {
        port: RemoteNetworkPort, nparams: i32, flags: u32,
    }
        -> NetworkPortGetParametersReply { params: Vec<TypedParam> [NETWORK_PORT_PARAMETERS_MAX], nparams: i32 };
    408 NetworkPortSetParameters "virNetworkPortSetParameters" [write] {
        port: RemoteNetworkPort, params: Vec<TypedParam> [NETWORK_PORT_PARAMETERS_MAX], flags: u32,
    } -> ();
    409 NetworkPortGetXmlDesc "virNetworkPortGetXMLDesc" [read] { port: RemoteNetworkPort, flags: u32 }
        -> NetworkPortGetXmlDescReply { xml: String };
    410 NetworkPortDelete "virNetworkPortDelete" [write] { port: RemoteNetworkPort, flags: u32 } -> ();
    413 DomainListAllCheckpoints "virDomainListAllCheckpoints" [read] {
        dom: RemoteDomain, need_results: i32, flags: u32,
    }
        -> DomainListAllCheckpointsReply {
            checkpoints: Vec<RemoteDomainCheckpoint> [DOMAIN_CHECKPOINT_LIST_MAX], ret: i32,
        };
    418 DomainGetGuestInfo "virDomainGetGuestInfo" [write] { dom: RemoteDomain, types: u32, flags: u32 }
        -> DomainGetGuestInfoReply { params: Vec<TypedParam> [DOMAIN_GUEST_INFO_PARAMS_MAX] };
    424 DomainAuthorizedSshKeysGet "virDomainAuthorizedSSHKeysGet" [write] {
        dom: RemoteDomain, user: String, flags: u32,
    }
        -> DomainAuthorizedSshKeysGetReply { keys: Vec<String> [DOMAIN_AUTHORIZED_SSH_KEYS_MAX] };
    426 DomainGetMessages "virDomainGetMessages" [read] { dom: RemoteDomain, flags: u32 }
        -> DomainGetMessagesReply { msgs: Vec<String> [DOMAIN_MESSAGES_MAX] };
    432 NetworkDefineXmlFlags "virNetworkDefineXMLFlags" [write] { xml: String, flags: u32 }
        -> NetworkDefineXmlFlagsReply { net: RemoteNetwork };
    437 NetworkCreateXmlFlags "virNetworkCreateXMLFlags" [write] { xml: String, flags: u32 }
        -> NetworkCreateXmlFlagsReply { net: RemoteNetwork };
    440 DomainSaveParams "virDomainSaveParams" [write] {
        dom: RemoteDomain, params: Vec<TypedParam> [DOMAIN_SAVE_PARAMS_MAX], flags: u32,
    } -> ();
    441 DomainRestoreParams "virDomainRestoreParams" [write] {
        params: Vec<TypedParam> [DOMAIN_SAVE_PARAMS_MAX], flags: u32,
    } -> ();
    444 NetworkSetMetadata "virNetworkSetMetadata" [write] {
        network: RemoteNetwork, kind: i32, metadata: Option<String>, key: Option<String>, uri: Option<String>,
        flags: u32,
    } -> ();
    445 NetworkGetMetadata "virNetworkGetMetadata" [read] {
        network: RemoteNetwork, kind: i32, uri: Option<String>, flags: u32,
    }
        -> NetworkGetMetadataReply { metadata: String };
    449 DomainGetAutostartOnce "virDomainGetAutostartOnce" [read] { dom: RemoteDomain }
        -> DomainGetAutostartOnceReply { autostart: i32 };
    450 DomainSetAutostartOnce "virDomainSetAutostartOnce" [write] {
        dom: RemoteDomain, autostart: i32,
    } -> ();
    0x1_0001 QemuDomainMonitorCommand "virDomainQemuMonitorCommand" [write] {
        dom: RemoteDomain, cmd: String, flags: u32,
    }
        -> QemuDomainMonitorCommandReply { result: String };
    0x1_0003 QemuDomainAgentCommand "virDomainQemuAgentCommand" [write] {
        dom: RemoteDomain, cmd: String, timeout: i32, flags: u32,
    }
        -> QemuDomainAgentCommandReply { result: Option<String> };
}
