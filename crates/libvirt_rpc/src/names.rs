//! Procedures of the remote program that have no types here, by the public functions behind them: whoever calls one is told by its
//! name that it is not supported, as by a libvirt daemon whose driver has not got it.
//!
//! Numbers: src/remote/remote_protocol.x. Events, and what only libvirt's library calls (migration, authentication), have no
//! public name and stay unknown.

/// In the order of their numbers.
const NAMES: &[(u32, &str)] = &[
    (105, "virConnectDomainEventRegister"),
    (106, "virConnectDomainEventDeregister"),
    (111, "virNodeNumOfDevices"),
    (112, "virNodeListDevices"),
    (113, "virNodeDeviceLookupByName"),
    (114, "virNodeDeviceGetXMLDesc"),
    (115, "virNodeDeviceGetParent"),
    (116, "virNodeDeviceNumOfCaps"),
    (117, "virNodeDeviceListCaps"),
    (118, "virNodeDeviceDettach"),
    (119, "virNodeDeviceReAttach"),
    (120, "virNodeDeviceReset"),
    (123, "virNodeDeviceCreateXML"),
    (124, "virNodeDeviceDestroy"),
    (128, "virInterfaceLookupByName"),
    (129, "virInterfaceLookupByMACString"),
    (130, "virInterfaceGetXMLDesc"),
    (131, "virInterfaceDefineXML"),
    (132, "virInterfaceUndefine"),
    (133, "virInterfaceCreate"),
    (134, "virInterfaceDestroy"),
    (135, "virConnectDomainXMLFromNative"),
    (137, "virConnectNumOfDefinedInterfaces"),
    (138, "virConnectListDefinedInterfaces"),
    (140, "virConnectListSecrets"),
    (141, "virSecretLookupByUUID"),
    (142, "virSecretDefineXML"),
    (143, "virSecretGetXMLDesc"),
    (144, "virSecretSetValue"),
    (145, "virSecretGetValue"),
    (146, "virSecretUndefine"),
    (147, "virSecretLookupByUsage"),
    (156, "virInterfaceIsActive"),
    (166, "virDomainMigrateSetMaxDowntime"),
    (167, "virConnectDomainEventRegisterAny"),
    (168, "virConnectDomainEventDeregisterAny"),
    (175, "virNWFilterLookupByName"),
    (176, "virNWFilterLookupByUUID"),
    (177, "virNWFilterGetXMLDesc"),
    (180, "virNWFilterDefineXML"),
    (181, "virNWFilterUndefine"),
    (207, "virDomainMigrateSetMaxSpeed"),
    (220, "virInterfaceChangeBegin"),
    (221, "virInterfaceChangeCommit"),
    (222, "virInterfaceChangeRollback"),
    (239, "virDomainBlockJobSetSpeed"),
    (242, "virDomainMigrateGetMaxSpeed"),
    (247, "virDomainSnapshotListChildrenNames"),
    (249, "virDomainOpenGraphics"),
    (250, "virNodeSuspendForDuration"),
    (288, "virNodeSetMemoryParameters"),
    (295, "virDomainSendProcessSignal"),
    (297, "virNodeDeviceLookupSCSIHostByWWN"),
    (299, "virDomainMigrateGetCompressionCache"),
    (300, "virDomainMigrateSetCompressionCache"),
    (301, "virNodeDeviceDetachFlags"),
    (309, "virDomainCreateXMLWithFiles"),
    (310, "virDomainCreateWithFiles"),
    (343, "virDomainOpenGraphicsFD"),
    (364, "virDomainMigrateStartPostCopy"),
    (365, "virDomainGetPerfEvents"),
    (366, "virDomainSetPerfEvents"),
    (387, "virDomainMigrateGetMaxDowntime"),
    (395, "virNodeGetSEVInfo"),
    (397, "virNWFilterBindingLookupByPortDev"),
    (398, "virNWFilterBindingGetXMLDesc"),
    (399, "virNWFilterBindingCreateXML"),
    (400, "virNWFilterBindingDelete"),
    (411, "virDomainCheckpointCreateXML"),
    (412, "virDomainCheckpointGetXMLDesc"),
    (414, "virDomainCheckpointListAllChildren"),
    (415, "virDomainCheckpointLookupByName"),
    (416, "virDomainCheckpointGetParent"),
    (417, "virDomainCheckpointDelete"),
    (419, "virConnectSetIdentity"),
    (420, "virDomainAgentSetResponseTimeout"),
    (421, "virDomainBackupBegin"),
    (422, "virDomainBackupGetXMLDesc"),
    (425, "virDomainAuthorizedSSHKeysSet"),
    (427, "virDomainStartDirtyRateCalc"),
    (428, "virNodeDeviceDefineXML"),
    (429, "virNodeDeviceUndefine"),
    (430, "virNodeDeviceCreate"),
    (431, "virNWFilterDefineXMLFlags"),
    (433, "virNodeDeviceGetAutostart"),
    (434, "virNodeDeviceSetAutostart"),
    (435, "virNodeDeviceIsPersistent"),
    (436, "virNodeDeviceIsActive"),
    (439, "virDomainSetLaunchSecurityState"),
    (442, "virDomainAbortJobFlags"),
    (443, "virDomainFDAssociate"),
];

/// The name of the function behind a procedure of the remote program.
pub(crate) fn of(number: u32) -> Option<&'static str> {
    NAMES.binary_search_by_key(&number, |(number, _)| *number).ok().map(|at| NAMES[at].1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::REMOTE_PROGRAM;

    #[test]
    fn each_procedure_is_declared_or_named_once() {
        assert!(NAMES.is_sorted_by(|one, next| one.0 < next.0));
        for (number, name) in NAMES {
            assert!(crate::Procedure::find(REMOTE_PROGRAM, *number).is_none(), "{name} has types");
        }
        assert_eq!(of(135), Some("virConnectDomainXMLFromNative"));
        assert_eq!(of(107), None, "an event");
    }
}
