// The table of modelled calls. Everything a client may send stands here; the
// page of the documentation is printed from it.
package openstack

var table []route

// The table names functions that read the table, hence set here and not in the
// declaration.
func init() {
	table = append(table, identityRoutes()...)
	table = append(table, volumeRoutes()...)
	table = append(table, volumeAttachmentRoutes()...)
	table = append(table, messageRoutes()...)
	table = append(table, computeRoutes()...)
	table = append(table, networkRoutes()...)
	table = append(table, imageRoutes()...)
}

func identityRoutes() []route {
	const s = "identity"
	credentials := "/v3/users/{user}/application_credentials"
	authFields := []string{"auth.identity.methods[]", "auth.identity.password.user.name", "auth.identity.password.user.id",
		"auth.identity.password.user.password", "auth.identity.password.user.domain.name", "auth.identity.password.user.domain.id",
		"auth.identity.application_credential.id", "auth.identity.application_credential.name",
		"auth.identity.application_credential.secret", "auth.identity.application_credential.user.name",
		"auth.identity.application_credential.user.id", "auth.identity.application_credential.user.domain.name",
		"auth.identity.application_credential.user.domain.id", "auth.identity.token.id", "auth.scope.project.id",
		"auth.scope.project.name", "auth.scope.project.domain.name", "auth.scope.project.domain.id"}
	return []route{
		{service: s, method: "GET", path: "/", open: true, about: "versions (300)", act: identityVersions},
		{service: s, method: "GET", path: "/v3", open: true, about: "version document", act: identityVersionThree},
		{service: s, method: "POST", path: "/v3/auth/tokens", open: true, query: []string{"nocatalog"}, fields: authFields,
			about: "token by password, application credential or token; scope is a project or unscoped", act: authenticate},
		{service: s, method: "GET", path: "/v3/auth/tokens", query: []string{"nocatalog", "allow_expired"}, about: "show a token", act: showToken},
		{service: s, method: "HEAD", path: "/v3/auth/tokens", query: []string{"nocatalog", "allow_expired"}, about: "check a token", act: showToken},
		{service: s, method: "DELETE", path: "/v3/auth/tokens", about: "revoke a token", act: revokeToken},
		{service: s, method: "GET", path: "/v3/auth/catalog", about: "catalogue of the token's project", act: showCatalog},
		{service: s, method: "GET", path: "/v3/auth/projects", about: "projects of the user", act: authProjects},
		{service: s, method: "GET", path: "/v3/users/{user}/projects", about: "projects of the user", act: authProjects},
		{service: s, method: "GET", path: "/v3/projects/{project}", about: "the own project", act: showProject},
		{service: s, method: "GET", path: "/v3/users/{user}", about: "the own user", act: showUser},
		{service: s, method: "GET", path: credentials, query: []string{"name"}, about: "list application credentials", act: listAppCredentials},
		{service: s, method: "POST", path: credentials, fields: []string{"application_credential.name", "application_credential.secret",
			"application_credential.description", "application_credential.expires_at", "application_credential.unrestricted"},
			about: "make an application credential", act: createAppCredential},
		{service: s, method: "GET", path: credentials + "/{credential}", about: "show one", act: showAppCredential},
		{service: s, method: "DELETE", path: credentials + "/{credential}", about: "delete one and end its tokens", act: deleteAppCredential},
	}
}

func volumeRoutes() []route {
	const s = "volume"
	one := "/v3/volumes/{volume}"
	action := one + "/action"
	return []route{
		{service: s, method: "GET", path: "/", open: true, about: "versions (300)", act: volumeRoot},
		{service: s, method: "GET", path: "/v3", open: true, about: "version document", act: volumeVersionThree},
		{service: s, method: "GET", path: "/v3/volumes", query: volumeQuery, about: "list volumes", act: listVolumes},
		{service: s, method: "GET", path: "/v3/volumes/detail", query: volumeQuery, about: "list volumes in detail", act: detailVolumes},
		{service: s, method: "POST", path: "/v3/volumes", fields: []string{"volume.size", "volume.name", "volume.description",
			"volume.metadata.*", "volume.volume_type", "volume.availability_zone", "volume.multiattach", "volume.imageRef",
			"volume.image_id", "volume.snapshot_id", "volume.source_volid", "volume.consistencygroup_id", "volume.group_id@3.13",
			"volume.backup_id@3.47"}, about: "create a volume, empty or from an image (every other source must be null)", act: createVolume},
		{service: s, method: "POST", path: "/v3/manageable_volumes", fields: []string{"volume.host", "volume.ref.source-name", "volume.name",
			"volume.description", "volume.metadata.*", "volume.volume_type", "volume.availability_zone"},
			about: "make a file of the share a volume; for members by a setting", act: manageVolume},
		{service: s, method: "GET", path: one, about: "show a volume", act: showVolume},
		{service: s, method: "PUT", path: one, fields: []string{"volume.name", "volume.description", "volume.metadata.*"},
			about: "change name, description, metadata", act: updateVolume},
		{service: s, method: "DELETE", path: one, query: []string{"cascade", "force@3.23"}, about: "delete a volume", act: deleteVolume},
		{service: s, method: "GET", path: one + "/metadata", about: "metadata", act: listMetadata},
		{service: s, method: "POST", path: one + "/metadata", fields: []string{"metadata.*"}, about: "add to metadata", act: mergeMetadata},
		{service: s, method: "PUT", path: one + "/metadata", fields: []string{"metadata.*"}, about: "replace metadata", act: replaceMetadata},
		{service: s, method: "GET", path: one + "/metadata/{key}", about: "one key", act: showMetadataKey},
		{service: s, method: "PUT", path: one + "/metadata/{key}", fields: []string{"meta.*"}, about: "set one key", act: putMetadataKey},
		{service: s, method: "DELETE", path: one + "/metadata/{key}", about: "delete one key", act: deleteMetadataKey},
		{service: s, method: "POST", path: action, action: "os-set_bootable", fields: []string{"os-set_bootable.bootable"},
			about: "bootable or not", act: setBootable},
		{service: s, method: "POST", path: action, action: "os-set_image_metadata", fields: []string{"os-set_image_metadata.metadata.*"},
			about: "add to image metadata", act: setImageMetadata},
		{service: s, method: "POST", path: action, action: "os-unset_image_metadata", fields: []string{"os-unset_image_metadata.key"},
			about: "delete one key of it", act: unsetImageMetadata},
		{service: s, method: "POST", path: action, action: "os-show_image_metadata", fields: []string{"os-show_image_metadata"},
			about: "show it", act: showImageMetadata},
		{service: s, method: "POST", path: action, action: "os-extend", fields: []string{"os-extend.new_size"},
			about: "make larger; in use from 3.42 on", act: extendVolume},
		{service: s, method: "POST", path: action, action: "os-unmanage", about: "forget a volume and keep its file; for members by a setting", act: unmanageVolume},
		{service: s, method: "GET", path: "/v3/types", query: []string{"is_public", "limit", "marker"}, about: "volume types", act: listVolumeTypes},
		{service: s, method: "GET", path: "/v3/types/default", about: "the type of volumes that name none", act: defaultVolumeType},
		{service: s, method: "GET", path: "/v3/types/{type}", query: []string{"is_public"}, about: "show a type", act: showVolumeType},
		{service: s, method: "GET", path: "/v3/limits", about: "limits and use", act: volumeLimits},
		{service: s, method: "GET", path: "/v3/os-quota-sets/{project}", query: []string{"usage"}, about: "quotas, with use", act: volumeQuotas},
		{service: s, method: "GET", path: "/v3/os-availability-zone", about: "availability zones", act: volumeZones},
	}
}

func computeRoutes() []route {
	const s = "compute"
	one := "/v2.1/servers/{server}"
	action := one + "/action"
	serverFields := []string{"os:scheduler_hints.group", "server.name", "server.flavorRef", "server.imageRef", "server.availability_zone", "server.key_name",
		"server.config_drive", "server.user_data", "server.metadata.*", "server.description@2.19", "server.tags[]@2.52",
		"server.security_groups[].name", "server.min_count", "server.max_count", "server.networks[].port",
		"server.networks[].uuid", "server.networks[].fixed_ip", "server.block_device_mapping_v2[].uuid",
		"server.block_device_mapping_v2[].source_type", "server.block_device_mapping_v2[].destination_type",
		"server.block_device_mapping_v2[].boot_index", "server.block_device_mapping_v2[].delete_on_termination",
		"server.block_device_mapping_v2[].device_name", "server.block_device_mapping_v2[].disk_bus",
		"server.block_device_mapping_v2[].device_type", "server.block_device_mapping_v2[].volume_size",
		"server.block_device_mapping_v2[].volume_type@2.67", "server.block_device_mapping_v2[].tag@2.42"}
	flavorQuery := []string{"limit", "marker", "minRam", "minDisk", "is_public"}
	return []route{
		{service: s, method: "GET", path: "/", open: true, about: "versions", act: computeRoot},
		{service: s, method: "GET", path: "/v2.1", open: true, about: "version document", act: computeVersion},
		{service: s, method: "GET", path: "/v2.1/servers", query: serverQuery, about: "list servers", act: listServers},
		{service: s, method: "GET", path: "/v2.1/servers/detail", query: serverQuery, about: "list servers in detail", act: detailServers},
		{service: s, method: "POST", path: "/v2.1/servers", fields: serverFields, about: "create a server from volumes, an image, or a volume that is made from an image", act: createServer},
		{service: s, method: "GET", path: one, about: "show a server", act: showServer},
		{service: s, method: "DELETE", path: one, about: "delete a server", act: deleteServer},
		{service: s, method: "POST", path: action, action: "os-stop", about: "stop", act: stopServer},
		{service: s, method: "POST", path: action, action: "os-start", about: "start", act: startServer},
		{service: s, method: "POST", path: action, action: "os-getConsoleOutput", fields: []string{"os-getConsoleOutput.length"},
			about: "console output: one line, since no guest runs", act: consoleOutput},
		{service: s, method: "GET", path: one + "/os-volume_attachments", query: []string{"limit", "offset"}, about: "volumes of a server", act: listAttachments},
		{service: s, method: "POST", path: one + "/os-volume_attachments", fields: []string{"volumeAttachment.volumeId",
			"volumeAttachment.device", "volumeAttachment.tag@2.49", "volumeAttachment.delete_on_termination@2.79"},
			about: "attach a volume; at the conversion host a device appears", act: createAttachment},
		{service: s, method: "GET", path: one + "/os-volume_attachments/{volume}", about: "show one", act: showAttachment},
		{service: s, method: "DELETE", path: one + "/os-volume_attachments/{volume}", about: "detach", act: deleteAttachment},
		{service: s, method: "GET", path: one + "/os-interface", about: "ports of a server", act: serverInterfaces},
		{service: s, method: "GET", path: one + "/tags", about: "tags of a server", act: listServerTags},
		{service: s, method: "PUT", path: one + "/tags/{tag}", about: "add a tag", act: addServerTag},
		{service: s, method: "GET", path: "/v2.1/flavors", query: flavorQuery, about: "list flavors", act: listFlavors},
		{service: s, method: "POST", path: "/v2.1/flavors", fields: flavorFields, about: "make a flavor; for administrators only", act: createFlavor},
		{service: s, method: "GET", path: "/v2.1/flavors/detail", query: flavorQuery, about: "list flavors in detail", act: detailFlavors},
		{service: s, method: "GET", path: "/v2.1/flavors/{flavor}", about: "show a flavor", act: showFlavor},
		{service: s, method: "DELETE", path: "/v2.1/flavors/{flavor}", about: "delete a flavor; for administrators only", act: deleteFlavor},
		{service: s, method: "GET", path: "/v2.1/flavors/{flavor}/os-extra_specs", about: "extra specs", act: flavorSpecs},
		{service: s, method: "GET", path: "/v2.1/limits", query: []string{"reserved"}, about: "limits and use", act: computeLimits},
		{service: s, method: "GET", path: "/v2.1/os-quota-sets/{project}", about: "quotas", act: computeQuotas},
		{service: s, method: "GET", path: "/v2.1/os-quota-sets/{project}/detail", about: "quotas with use", act: computeQuotaDetail},
		{service: s, method: "GET", path: "/v2.1/os-availability-zone", about: "availability zones", act: computeZones},
		{service: s, method: "GET", path: "/v2.1/os-availability-zone/detail", about: "refused with 403: for administrators only", act: computeZoneDetail},
		{service: s, method: "GET", path: "/v2.1/os-server-groups", query: []string{"limit", "offset"}, about: "list server groups", act: listServerGroups},
		{service: s, method: "POST", path: "/v2.1/os-server-groups", fields: []string{"server_group.name", "server_group.policies[]", "server_group.policy@2.64"},
			about: "make a server group", act: createServerGroup},
		{service: s, method: "DELETE", path: "/v2.1/os-server-groups/{group}", about: "delete a server group", act: deleteServerGroup},
		{service: s, method: "GET", path: "/v2.1/os-keypairs", about: "list key pairs", act: listKeypairs},
		{service: s, method: "POST", path: "/v2.1/os-keypairs", fields: []string{"keypair.name", "keypair.public_key", "keypair.type@2.2"},
			about: "import a public key", act: createKeypair},
		{service: s, method: "GET", path: "/v2.1/os-keypairs/{keypair}", about: "show a key pair", act: showKeypair},
		{service: s, method: "DELETE", path: "/v2.1/os-keypairs/{keypair}", about: "delete a key pair", act: deleteKeypair},
	}
}

func networkRoutes() []route {
	const s = "network"
	return []route{
		{service: s, method: "GET", path: "/", open: true, about: "versions", act: networkRoot},
		{service: s, method: "GET", path: "/v2.0", about: "version document", act: networkVersion},
		{service: s, method: "GET", path: "/v2.0/extensions", about: "extensions modelled", act: listExtensions},
		{service: s, method: "GET", path: "/v2.0/extensions/{alias}", about: "show an extension", act: showExtension},
		{service: s, method: "GET", path: "/v2.0/networks", query: networkQuery, about: "list networks", act: listNetworks},
		{service: s, method: "GET", path: "/v2.0/networks/{network}", query: []string{"fields"}, about: "show a network", act: showNetwork},
		{service: s, method: "GET", path: "/v2.0/subnets", query: subnetQuery, about: "list subnets", act: listSubnets},
		{service: s, method: "GET", path: "/v2.0/subnets/{subnet}", query: []string{"fields"}, about: "show a subnet", act: showSubnet},
		{service: s, method: "GET", path: "/v2.0/ports", query: portQuery, about: "list ports", act: listPorts},
		{service: s, method: "POST", path: "/v2.0/ports", fields: portCreateFields, about: "create a port", act: createPort},
		{service: s, method: "GET", path: "/v2.0/ports/{port}", query: []string{"fields"}, about: "show a port", act: showPort},
		{service: s, method: "PUT", path: "/v2.0/ports/{port}", fields: portFields, about: "change a port", act: updatePort},
		{service: s, method: "DELETE", path: "/v2.0/ports/{port}", about: "delete a port", act: deletePort},
		{service: s, method: "GET", path: "/v2.0/ports/{port}/tags", about: "tags of a port", act: listPortTags},
		{service: s, method: "PUT", path: "/v2.0/ports/{port}/tags", fields: []string{"tags[]"}, about: "replace tags", act: replacePortTags},
		{service: s, method: "PUT", path: "/v2.0/ports/{port}/tags/{tag}", about: "add a tag", act: addPortTag},
		{service: s, method: "DELETE", path: "/v2.0/ports/{port}/tags/{tag}", about: "delete a tag", act: deletePortTag},
		{service: s, method: "GET", path: "/v2.0/security-groups", query: groupQuery, about: "list security groups", act: listGroups},
		{service: s, method: "GET", path: "/v2.0/security-groups/{group}", query: []string{"fields"}, about: "show a security group", act: showGroup},
		{service: s, method: "POST", path: "/v2.0/security-groups", fields: groupFields, about: "create a security group", act: createGroup},
		{service: s, method: "PUT", path: "/v2.0/security-groups/{group}", fields: groupFields, about: "change name, description", act: updateGroup},
		{service: s, method: "DELETE", path: "/v2.0/security-groups/{group}", about: "delete a security group that no port has", act: deleteGroup},
		{service: s, method: "GET", path: "/v2.0/security-group-rules", query: ruleQuery, about: "list rules", act: listRules},
		{service: s, method: "POST", path: "/v2.0/security-group-rules", fields: ruleFields, about: "create a rule for TCP", act: createRule},
		{service: s, method: "DELETE", path: "/v2.0/security-group-rules/{rule}", about: "delete a rule", act: deleteRule},
		{service: s, method: "GET", path: "/v2.0/floatingips", query: floatingQuery, about: "list floating IPs", act: listFloating},
		{service: s, method: "POST", path: "/v2.0/floatingips", fields: floatingCreateFields,
			about: "create a floating IP, for a port or for none", act: createFloating},
		{service: s, method: "GET", path: "/v2.0/floatingips/{floatingip}", query: []string{"fields"}, about: "show a floating IP", act: showFloating},
		{service: s, method: "PUT", path: "/v2.0/floatingips/{floatingip}", fields: floatingFields, about: "give it to a port, or take it away", act: updateFloating},
		{service: s, method: "DELETE", path: "/v2.0/floatingips/{floatingip}", about: "delete a floating IP", act: deleteFloating},
		{service: s, method: "GET", path: "/v2.0/network-ip-availabilities", query: availabilityQuery,
			about: "addresses in use; empty for ordinary users by default", act: listAvailability},
		{service: s, method: "GET", path: "/v2.0/network-ip-availabilities/{network}",
			about: "of one network; refused with 403 by default", act: showAvailability},
		{service: s, method: "GET", path: "/v2.0/quotas/{project}", about: "quotas", act: networkQuotas},
		{service: s, method: "GET", path: "/v2.0/quotas/{project}/details.json", about: "quotas with use", act: networkQuotaDetails},
		{service: s, method: "GET", path: "/v2.0/quotas/{project}/details", about: "quotas with use", act: networkQuotaDetails},
	}
}

func imageRoutes() []route {
	const s = "image"
	return []route{
		{service: s, method: "GET", path: "/", open: true, about: "versions (300)", act: imageVersions},
		{service: s, method: "GET", path: "/versions", open: true, about: "versions", act: imageVersions},
		{service: s, method: "GET", path: "/v2/images", query: imageQuery, about: "list images", act: listImages},
		{service: s, method: "GET", path: "/v2/images/{image}", about: "show an image", act: showImage},
		{service: s, method: "POST", path: "/v2/images", fields: []string{"*"}, about: "create an image without bytes", act: createImage},
		{service: s, method: "PATCH", path: "/v2/images/{image}", stream: true, about: "add, replace, remove whole properties (JSON patch)", act: patchImage},
		{service: s, method: "DELETE", path: "/v2/images/{image}", about: "delete an image", act: deleteImage},
		{service: s, method: "PUT", path: "/v2/images/{image}/file", stream: true, about: "its bytes", act: uploadImage},
		{service: s, method: "GET", path: "/v2/images/{image}/file", stream: true, about: "its bytes; 204 when there are none", act: downloadImage},
		{service: s, method: "PUT", path: "/v2/images/{image}/stage", stream: true, about: "bytes to be imported", act: stageImage},
		{service: s, method: "POST", path: "/v2/images/{image}/import", fields: []string{"method.name"}, about: "import what was staged, by glance-direct", act: importImage},
		{service: s, method: "GET", path: "/v2/images/{image}/tasks", about: "imports that failed", act: imageTasks},
		{service: s, method: "GET", path: "/v2/info/import", about: "import methods", act: importInfo},
	}
}
